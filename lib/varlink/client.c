#include "lib/varlink/client.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/varlink/message.h"
#include "lib/varlink/service.h"

enum {
    READ_MIN = 4096,
    CONNECT_PATIENCE_MS = 2000, /* for a service whose backlog is full */
    CONNECT_RETRY_MS = 20,
};

struct varlink_client {
    int fd;
    char *in; /* what was read and not handed on: in[in_pos … in_len) */
    size_t in_pos, in_len, in_cap, in_scanned;
    char *error;
    bool more;      /* a stream of replies is open */
    bool spent;     /* broken, or upgraded: no call can be matched to its reply any more */
    int send_error; /* told once it is clear that the service said nothing before it went */
};

/* When a wait ends, in clock_mono_us() time; UINT64_MAX: never. */
static uint64_t deadline_in(int timeout_ms) { return timeout_ms < 0 ? UINT64_MAX : clock_mono_us() + (uint64_t)timeout_ms * 1000; }

static int wait_for(int fd, short events, uint64_t deadline)
{
    for (;;) {
        struct pollfd p = { .fd = fd, .events = events };
        int timeout = -1, r;

        if (deadline != UINT64_MAX) {
            uint64_t now = clock_mono_us(), left = deadline > now ? (deadline - now + 999) / 1000 : 0;

            timeout = left > INT32_MAX ? INT32_MAX : (int)left;
        }
        r = poll(&p, 1, timeout);
        if (r > 0)
            return 0;
        if (r == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

int varlink_client_connect(const char *path, struct varlink_client **ret_client, struct err *err)
{
    struct varlink_client auto_varlink_client *c = calloc(1, sizeof(*c));
    uint64_t deadline = deadline_in(CONNECT_PATIENCE_MS);

    if (!c)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    c->fd = socket_connect_path(path);
    /* A unix socket with a full backlog can't be polled for room. */
    while (c->fd == -EAGAIN && clock_mono_us() < deadline) {
        poll(NULL, 0, CONNECT_RETRY_MS);
        c->fd = socket_connect_path(path);
    }
    if (c->fd == -EAGAIN)
        return err_set(err, EAGAIN, "busy", "cannot connect to %s: it doesn't take new connections", path);
    if (c->fd < 0)
        return err_set_errno(err, -c->fd, "not-reachable", "cannot connect to %s", path);
    *ret_client = steal_ptr(&c);
    return 0;
}

int varlink_client_new_take(int fd, struct varlink_client **ret_client)
{
    struct varlink_client *c = calloc(1, sizeof(*c));

    if (!c)
        return -ENOMEM;
    c->fd = fd;
    *ret_client = c;
    return 0;
}

void varlink_client_free(struct varlink_client *c)
{
    if (!c)
        return;
    fd_close(c->fd);
    free(c->in);
    free(c->error);
    free(c);
}

static int broken(struct varlink_client *c, int r, struct err *err)
{
    c->spent = true;
    if (r == -ETIMEDOUT)
        return err_set(err, ETIMEDOUT, "timed-out", "no answer in time");
    if (r == -EPROTO)
        return err_set(err, EPROTO, "bad-message", "the answer is not a Varlink message");
    return err_set_errno(err, -r, "connection-lost", "the connection was lost");
}

static int send_all(struct varlink_client *c, const char *data, size_t len, uint64_t deadline)
{
    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);
        int r;

        if (n >= 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return -errno;
        r = wait_for(c->fd, POLLOUT, deadline);
        if (r < 0)
            return r;
    }
    return 0;
}

static int send_call(struct varlink_client *c, const char *method, json_t *parameters, bool more, bool upgrade, uint64_t deadline,
                     struct err *err)
{
    char auto_free *text = NULL;
    size_t len = 0;
    int r;

    if (c->spent || c->more)
        return err_set(err, ENOTCONN, "connection-lost", "the connection can't take another call");
    c->send_error = 0;
    free(steal_ptr(&c->error));
    r = varlink_message_format_call(NULL, method, parameters, more, false, upgrade, &text, &len);
    if (r < 0)
        return err_set_errno(err, -r, "bad-parameter", "cannot form the call of %s", method);
    r = send_all(c, text, len + 1, deadline); /* with the NUL that ends a message */
    if (r == -ETIMEDOUT)
        return broken(c, r, err);
    /* The service may have said why before it closed: look for that first. */
    c->send_error = r;
    return 0;
}

static int read_some(struct varlink_client *c, uint64_t deadline)
{
    ssize_t n;
    int r;

    if (c->in_cap - c->in_len < READ_MIN) {
        size_t cap = c->in_cap ? c->in_cap * 2 : 2 * READ_MIN;
        char *bigger = realloc(c->in, cap);

        if (!bigger)
            return -ENOMEM;
        c->in = bigger;
        c->in_cap = cap;
    }
    r = wait_for(c->fd, POLLIN, deadline);
    if (r < 0)
        return r;
    n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return c->send_error < 0 ? c->send_error : -ECONNRESET;
    c->in_len += (size_t)n;
    return 0;
}

static char *find_end(struct varlink_client *c)
{
    size_t from = c->in_scanned > c->in_pos ? c->in_scanned : c->in_pos;
    char *end = c->in_len > from ? memchr(c->in + from, '\0', c->in_len - from) : NULL;

    if (!end)
        c->in_scanned = c->in_len;
    return end;
}

/* The next whole message, in the buffer until the next read. */
static int next_message(struct varlink_client *c, uint64_t deadline, char **ret_text, size_t *ret_len)
{
    char *end;

    while (!(end = find_end(c))) {
        int r;

        if (c->in_pos > 0) {
            memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
            c->in_len -= c->in_pos;
            c->in_pos = 0;
            c->in_scanned = c->in_len;
        }
        if (c->in_len > VARLINK_QUEUE_MAX)
            return -EMSGSIZE;
        r = read_some(c, deadline);
        if (r < 0)
            return r;
    }
    *ret_text = c->in + c->in_pos;
    *ret_len = (size_t)(end - *ret_text);
    c->in_pos = c->in_scanned = (size_t)(end + 1 - c->in);
    return 0;
}

/* What a human reads: the reason if the error has one, else its name and what it names. */
static void describe_error(const struct varlink_message *m, struct err *err)
{
    const json_t *reason = json_object_get(m->parameters, "reason");
    const char *key;
    json_t *value;

    if (json_is_string(reason)) {
        err_set(err, EREMOTEIO, m->error, "%s", json_string_value(reason));
        return;
    }
    json_object_foreach (m->parameters, key, value) {
        if (!json_is_string(value))
            continue;
        err_set(err, EREMOTEIO, m->error, "%s (%s: %s)", m->error, key, json_string_value(value));
        return;
    }
    err_set(err, EREMOTEIO, m->error, "%s", m->error);
}

/* 1: more will come, 0: the last one, -EREMOTEIO: a Varlink error. */
static int receive(struct varlink_client *c, uint64_t deadline, json_t **ret_parameters, struct err *err)
{
    struct varlink_message auto_varlink_message m = { 0 };
    char *text;
    size_t len;
    int r = next_message(c, deadline, &text, &len);

    if (r == -ETIMEDOUT && c->more) /* nothing is lost: the next reply is waited for again */
        return err_set(err, ETIMEDOUT, "timed-out", "no answer in time");
    if (r < 0)
        return broken(c, r, err);
    r = varlink_message_parse_reply(text, len, &m, NULL);
    if (r == -ENOMEM)
        return broken(c, r, err);
    if (r < 0 || (m.continues && !c->more))
        return broken(c, -EPROTO, err);
    if (!m.continues)
        c->more = false;
    if (m.error) {
        r = str_set(&c->error, m.error);
        if (r < 0)
            return err_set_errno(err, -r, "no-memory", "cannot keep the answer");
        describe_error(&m, err);
    }
    if (ret_parameters)
        *ret_parameters = json_incref(m.parameters);
    return m.error ? -EREMOTEIO : m.continues;
}

int varlink_client_call_consume(struct varlink_client *c, const char *method, json_t *parameters, int timeout_ms, json_t **ret_parameters,
                                struct err *err)
{
    json_t auto_json *owned = parameters;
    uint64_t deadline = deadline_in(timeout_ms);
    int r = send_call(c, method, owned, false, false, deadline, err);

    return r < 0 ? r : receive(c, deadline, ret_parameters, err);
}

const char *varlink_client_error(const struct varlink_client *c) { return c->error ? c->error : ""; }

int varlink_client_more_consume(struct varlink_client *c, const char *method, json_t *parameters, struct err *err)
{
    json_t auto_json *owned = parameters;
    int r = send_call(c, method, owned, true, false, UINT64_MAX, err);

    if (r < 0)
        return r;
    c->more = true;
    return 0;
}

int varlink_client_next(struct varlink_client *c, int timeout_ms, json_t **ret_parameters, struct err *err)
{
    if (!c->more || c->spent)
        return err_set(err, ENOTCONN, "connection-lost", "no call is open");
    return receive(c, deadline_in(timeout_ms), ret_parameters, err);
}

int varlink_client_upgrade_consume(struct varlink_client *c, const char *method, json_t *parameters, int timeout_ms, int *ret_fd,
                                   char **ret_rest, size_t *ret_rest_len, struct err *err)
{
    json_t auto_json *owned = parameters;
    uint64_t deadline = deadline_in(timeout_ms);
    char auto_free *rest = NULL;
    size_t len;
    int r = send_call(c, method, owned, false, true, deadline, err);

    if (r < 0)
        return r;
    r = receive(c, deadline, NULL, err);
    if (r < 0)
        return r;
    len = c->in_len - c->in_pos;
    if (len > 0) {
        rest = malloc(len);
        if (!rest)
            return broken(c, -ENOMEM, err);
        memcpy(rest, c->in + c->in_pos, len);
    }
    c->spent = true;
    *ret_fd = steal_fd(&c->fd);
    *ret_rest = steal_ptr(&rest);
    *ret_rest_len = len;
    return 0;
}

int varlink_client_fd(const struct varlink_client *c) { return c->fd; }

bool varlink_client_pending(const struct varlink_client *c)
{
    return c->in_len > c->in_pos && memchr(c->in + c->in_pos, '\0', c->in_len - c->in_pos);
}
