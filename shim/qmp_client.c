#include "shim/qmp_client.h"

#include <errno.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/loop/stream.h"
#include "lib/qemu/qmp.h"

enum { QMP_QUEUE_MAX = 1024 * 1024 };

struct pending {
    struct pending *next;
    struct qmp_client *client;
    uint64_t id;
    ev_timer deadline;
    void (*done)(void *arg, const struct qmp_result *r);
    void *arg;
};

struct qmp_client {
    struct loop *loop;
    struct stream *stream;
    struct qmp_client_config config;
    struct pending *calls; /* in order of sending, which is the order QEMU answers in */
    uint64_t last_id;
    bool ready;
};

static void call_unlink(struct pending *call)
{
    struct pending **p = &call->client->calls;

    while (*p != call)
        p = &(*p)->next;
    *p = call->next;
    ev_timer_stop(loop_ev(call->client->loop), &call->deadline);
}

static void call_finish(struct pending *call, const struct qmp_result *r)
{
    call_unlink(call);
    if (call->done)
        call->done(call->arg, r);
    free(call);
}

static void calls_fail(struct qmp_client *c, int error, const char *text)
{
    while (c->calls)
        call_finish(c->calls, &(struct qmp_result){ .failure = error, .text = text });
}

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    call_finish(container_of(w, struct pending, deadline),
                &(struct qmp_result){ .failure = -ETIMEDOUT, .text = "QEMU did not answer in time" });
}

static void on_capabilities(void *arg, const struct qmp_result *r)
{
    struct qmp_client *c = arg;

    if (r->failure == 0)
        c->config.ready(c->config.arg);
}

static void on_answer(struct qmp_client *c, const struct qmp_message *m)
{
    for (struct pending *call = c->calls; call; call = call->next) {
        if (call->id != m->id)
            continue;
        call_finish(call, m->kind == QMP_RETURN
                              ? &(struct qmp_result){ .reply = m->json }
                              : &(struct qmp_result){ .failure = -EREMOTEIO, .class = m->name, .text = m->text, .reply = m->json });
        return;
    }
}

static void on_line(void *arg, char *line, size_t len)
{
    struct qmp_client *c = arg;
    auto_qmp_message struct qmp_message m = { 0 };

    /* What QEMU says that isn't QMP is skipped: a monitor that babbles is no reason to lose sight of a running guest. */
    if (qmp_parse(line, len, &m, NULL) < 0)
        return;
    switch (m.kind) {
    case QMP_GREETING:
        c->ready = true;
        (void)qmp_client_call(c, "qmp_capabilities", NULL, 0, on_capabilities, c);
        c->config.event(c->config.arg, "greeting", m.data);
        return;
    case QMP_RETURN:
    case QMP_ERROR:
        on_answer(c, &m);
        return;
    case QMP_EVENT:
        c->config.event(c->config.arg, m.name, m.data);
        return;
    }
}

static void on_close(void *arg, int error)
{
    struct qmp_client *c = arg;

    c->ready = false;
    calls_fail(c, -ECONNRESET, "QEMU closed its monitor");
    c->config.closed(c->config.arg, error);
}

int qmp_client_new_take(struct loop *l, int fd, const struct qmp_client_config *config, struct qmp_client **ret_client)
{
    struct qmp_client *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->loop = l;
    c->config = *config;
    r = stream_new_take(l, fd,
                        &(struct stream_config){
                            .delimiter = '\n',
                            .in_max = QMP_LINE_MAX,
                            .out_max = QMP_QUEUE_MAX,
                            .on_frame = on_line,
                            .on_close = on_close,
                            .arg = c,
                        },
                        &c->stream);
    if (r < 0) {
        free(c);
        return r;
    }
    *ret_client = c;
    return 0;
}

void qmp_client_free(struct qmp_client *c)
{
    if (!c)
        return;
    c->ready = false;
    calls_fail(c, -ECONNRESET, "the connection to QEMU's monitor was closed");
    stream_free(c->stream);
    free(c);
}

int qmp_client_call(struct qmp_client *c, const char *command, const json_t *arguments, uint64_t timeout_ms,
                    void (*done)(void *arg, const struct qmp_result *r), void *arg)
{
    return qmp_client_call_fd(c, command, arguments, -1, &(struct qmp_done){ timeout_ms, done, arg });
}

int qmp_client_call_fd(struct qmp_client *c, const char *command, const json_t *arguments, int fd, const struct qmp_done *done)
{
    struct pending *call, **tail = &c->calls;
    auto_free char *line = NULL;
    size_t len;
    int r;

    if (!c->ready)
        return -ENOTCONN;
    r = qmp_command(command, arguments, c->last_id + 1, &line, &len);
    if (r < 0)
        return r;
    call = calloc(1, sizeof(*call));
    if (!call)
        return -ENOMEM;
    r = stream_send_fd(c->stream, line, len, fd);
    if (r < 0) {
        free(call);
        return r;
    }
    call->client = c;
    call->id = ++c->last_id;
    call->done = done->done;
    call->arg = done->arg;
    while (*tail)
        tail = &(*tail)->next;
    *tail = call;
    ev_timer_init(&call->deadline, on_deadline, (double)done->timeout_ms / 1000.0, 0.0);
    if (done->timeout_ms > 0)
        ev_timer_start(loop_ev(c->loop), &call->deadline);
    return 0;
}
