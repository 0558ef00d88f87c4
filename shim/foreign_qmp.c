#include "shim/foreign_qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/qemu/qmp.h"

enum { ANSWER_MS = 5000, LINE_MAX_BYTES = 64 * 1024 };

struct talk {
    int fd;
    uint64_t id; /* of the last command */
    size_t len;
    char buf[LINE_MAX_BYTES];
};

static int wait_for_input(const struct talk *t, uint64_t until_us)
{
    struct pollfd p = { .fd = t->fd, .events = POLLIN };
    uint64_t now = clock_mono_us();
    int r;

    if (now >= until_us)
        return -ETIMEDOUT;
    r = poll(&p, 1, (int)((until_us - now) / 1000) + 1);
    return r < 0 ? (errno == EINTR ? 0 : -errno) : 0;
}

/* The next message, an event or not. */
static int next_message(struct talk *t, uint64_t until_us, struct qmp_message *ret)
{
    for (;;) {
        char *end = memchr(t->buf, '\n', t->len);
        ssize_t n;
        int r;

        if (end) {
            size_t line = (size_t)(end - t->buf);

            r = qmp_parse(t->buf, line, ret, NULL);
            t->len -= line + 1;
            memmove(t->buf, end + 1, t->len);
            return r < 0 ? -EPROTO : 0;
        }
        if (t->len == sizeof(t->buf))
            return -EPROTO;
        n = read(t->fd, t->buf + t->len, sizeof(t->buf) - t->len);
        if (n > 0) {
            t->len += (size_t)n;
            continue;
        }
        if (n == 0)
            return -ECONNRESET;
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        r = wait_for_input(t, until_us);
        if (r < 0)
            return r;
    }
}

int talk_open(const char *path, struct talk **ret_talk, struct err *err)
{
    auto_talk struct talk *t = calloc(1, sizeof(*t));
    struct qmp_message greeting = { 0 };
    int r;

    if (!t)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    t->fd = socket_connect_path(path);
    if (t->fd < 0)
        return err_set_errno(err, -t->fd, "no-monitor", "can't connect to the monitor %s", path);
    r = next_message(t, clock_mono_us() + ANSWER_MS * UINT64_C(1000), &greeting);
    if (r == -ETIMEDOUT)
        return err_set(
            err, ETIMEDOUT, "monitor-busy",
            "%s takes the connection and says nothing: another program holds this monitor, which serves one at a time; end that one first",
            path);
    bool greets = r >= 0 && greeting.kind == QMP_GREETING;
    if (r >= 0)
        qmp_message_done(&greeting);
    if (!greets)
        return err_set(err, EPROTO, "no-monitor", "what answers on %s is no QMP monitor", path);
    r = talk_call_consume(t, "qmp_capabilities", NULL, -1, NULL, err);
    if (r < 0)
        return r;
    *ret_talk = steal_ptr(&t);
    return 0;
}

void talk_free(struct talk *t)
{
    if (!t)
        return;
    fd_close(t->fd);
    free(t);
}

static int send_command(struct talk *t, const char *command, const json_t *arguments, int fd)
{
    auto_free char *line = NULL, *text = NULL;
    size_t len;
    ssize_t n;
    int r = qmp_command(command, arguments, ++t->id, &line, &len);

    if (r < 0 || (r = str_format(&text, "%s\n", line)) < 0)
        return r;
    /* An empty socket takes a line of this size whole. */
    n = socket_send_fd(t->fd, text, len + 1, fd);
    return n < 0 ? (int)n : (size_t)n == len + 1 ? 0 : -EAGAIN;
}

static int await_answer(struct talk *t, json_t **ret_data, struct err *err)
{
    uint64_t until = clock_mono_us() + ANSWER_MS * UINT64_C(1000);

    for (;;) {
        auto_qmp_message struct qmp_message m = { 0 };
        int r = next_message(t, until, &m);

        if (r < 0)
            return r;
        if (m.kind == QMP_ERROR)
            return err_set(err, EREMOTEIO, "qemu-refused", "QEMU refused: %s", m.text);
        if (m.kind != QMP_RETURN || m.id != t->id)
            continue;
        if (ret_data)
            *ret_data = json_incref((json_t *)(uintptr_t)m.data);
        return 0;
    }
}

int talk_call_consume(struct talk *t, const char *command, json_t *arguments, int fd, json_t **ret_data, struct err *err)
{
    auto_json json_t *owned = arguments;
    int r = send_command(t, command, owned, fd);

    if (r >= 0)
        r = await_answer(t, ret_data, err);
    return r < 0 && !err_is_set(err) ? err_set_errno(err, -r, "no-monitor", "QEMU doesn't answer %s", command) : r;
}
