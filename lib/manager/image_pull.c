#include "lib/manager/image_pull.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/backoff.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/images/names.h"
#include "lib/manager/state.h"
#include "lib/varlink/peer.h"

#define INTERFACE "io.holdfast.Images."

enum { RETRY_MS = 1000, RETRY_MAX_MS = 60 * 1000, TEXT_MAX = ERR_TEXT_MAX };

struct image_pull {
    struct manager *manager;
    struct image_pull_request request;
    char *name, *version;
    struct varlink_peer *peer;
    ev_timer retry;
    unsigned attempts; /* in vain, in a row */
};

static void ask(struct image_pull *p);

static void on_retry(struct ev_loop *ev, ev_timer *timer, int events) { ask(container_of(timer, struct image_pull, retry)); }

/* Not now: again in a while, for as long as somebody waits. */
static void again(struct image_pull *p, const char *why)
{
    struct ev_loop *ev = loop_ev(p->manager->loop);
    struct backoff backoff = { .delay_ms = RETRY_MS, .max_delay_ms = RETRY_MAX_MS, .attempt = p->attempts };
    char text[TEXT_MAX];
    uint64_t ms;

    varlink_peer_free(steal_ptr(&p->peer));
    if (!backoff_next(&backoff, 0, &ms))
        ms = RETRY_MAX_MS;
    p->attempts = backoff.attempt;
    snprintf(text, sizeof(text), "waiting for image %s: %s", p->name, why);
    p->request.progress(p->request.arg, text);
    ev_now_update(ev);
    ev_timer_set(&p->retry, (double)ms / 1000., 0.);
    ev_timer_start(ev, &p->retry);
}

/* Frees `p`. */
static void finish(struct image_pull *p, const struct err *err)
{
    struct image_pull_request request = p->request;

    image_pull_free(p);
    request.done(request.arg, err);
}

static void on_progress(struct image_pull *p, const json_t *progress)
{
    const char *phase = json_string_value(json_object_get(progress, "phase"));
    json_int_t done = json_integer_value(json_object_get(progress, "done")), total = json_integer_value(json_object_get(progress, "total"));
    char text[TEXT_MAX];

    p->attempts = 0;
    if (total > 0)
        snprintf(text, sizeof(text), "%s %d %%", phase ? phase : "", (int)((double)done * 100. / (double)total));
    else
        snprintf(text, sizeof(text), "%s", phase ? phase : "");
    p->request.progress(p->request.arg, text);
}

/* Whether time alone may mend it. */
static bool may_pass(const struct varlink_reply *r) { return r->failure < 0 || streq(r->error, INTERFACE "SourceFailed"); }

static const char *reason_of(const struct varlink_reply *r)
{
    const char *reason = json_string_value(json_object_get(r->parameters, "reason"));

    if (r->failure < 0)
        return r->failure == -ECONNRESET ? "holdfast-imaged has ended" : strerror(-r->failure);
    return reason ? reason : r->error;
}

static void on_reply(void *arg, const struct varlink_reply *r)
{
    struct image_pull *p = arg;
    struct err err = ERR_INIT;

    if (r->failure == 0 && !r->error && r->continues) {
        on_progress(p, json_object_get(r->parameters, "progress"));
    } else if (r->failure == 0 && !r->error) {
        finish(p, NULL);
    } else if (may_pass(r)) {
        again(p, reason_of(r));
    } else {
        err_set(&err, EIO, "image", "image %s%s%s can't be had: %s", p->name, streq(p->version, IMAGE_AUTO) ? "" : " ",
                streq(p->version, IMAGE_AUTO) ? "" : p->version, reason_of(r));
        finish(p, &err);
    }
}

/* The call was told before. */
static void on_closed(void *arg, int error) {}

static int call(struct image_pull *p)
{
    auto_fd int fd = socket_connect(p->manager->run_fd, FILE_IMAGES_SOCKET);
    json_t *parameters;
    int r;

    if (fd < 0)
        return fd;
    r = varlink_peer_new_take(p->manager->loop, fd, p->manager->images_interface, on_closed, p, &p->peer);
    if (r < 0)
        return r;
    steal_fd(&fd);
    parameters = json_pack("{s:s, s:s}", "name", p->name, "version", p->version);
    return parameters ? varlink_peer_call_consume(p->peer, "Pull", parameters, VARLINK_MORE, 0, on_reply, p) : -ENOMEM;
}

static void ask(struct image_pull *p)
{
    int r = call(p);

    if (r == -ENOENT || r == -ECONNREFUSED)
        again(p, "holdfast-imaged doesn't run, start it");
    else if (r < 0)
        again(p, strerror(-r));
}

int image_pull_begin(struct manager *m, const struct image_pull_request *request, struct image_pull **ret_pull)
{
    struct image_pull *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    p->manager = m;
    p->request = *request;
    ev_init(&p->retry, on_retry);
    if (str_set(&p->name, request->name) < 0 || str_set(&p->version, request->version ? request->version : IMAGE_AUTO) < 0) {
        image_pull_free(p);
        return -ENOMEM;
    }
    *ret_pull = p;
    ask(p);
    return 0;
}

void image_pull_free(struct image_pull *p)
{
    if (!p)
        return;
    ev_timer_stop(loop_ev(p->manager->loop), &p->retry);
    varlink_peer_free(p->peer);
    free(p->name);
    free(p->version);
    free(p);
}
