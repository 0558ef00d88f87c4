#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/fd.h"
#include "tests/fake/fake.h"

enum { LINE_LIMIT = 1024 * 1024 };

void channel_init(struct channel *c, int listener) { *c = (struct channel){ .listener = listener, .client = -1 }; }

bool channel_accept(struct channel *c)
{
    int fd = accept4(c->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return false;
    c->client = fd;
    return true;
}

void channel_drop(struct channel *c)
{
    c->client = fd_close(c->client);
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_cap = 0;
    c->next_byte = 0;
    if (c->keeps_line)
        return;
    free(c->in);
    c->in = NULL;
    c->in_len = c->in_cap = 0;
}

static void *grow(char **buf, size_t *cap, size_t need)
{
    if (need <= *cap)
        return *buf;
    char *bigger = realloc(*buf, need * 2);
    if (!bigger)
        abort();
    *buf = bigger;
    *cap = need * 2;
    return bigger;
}

void channel_put(struct channel *c, const char *data, size_t len)
{
    if (c->client < 0)
        return;
    grow(&c->out, &c->out_cap, c->out_len + len);
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

void channel_flush(struct channel *c, uint64_t now)
{
    if (c->client < 0 || !c->out_len || now < c->next_byte)
        return;
    size_t len = c->byte_ms ? 1 : c->out_len;
    ssize_t n = send(c->client, c->out, len, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            channel_drop(c);
        return;
    }
    c->out_len -= (size_t)n;
    memmove(c->out, c->out + n, c->out_len);
    if (c->byte_ms)
        c->next_byte = now + c->byte_ms;
    if (!c->out_len) {
        /* A thousand idle fakes must not each keep the room their largest reply took. */
        free(c->out);
        c->out = NULL;
        c->out_cap = 0;
    }
}

void channel_drain(struct channel *c)
{
    uint64_t deadline = now_ms() + 1000;
    c->byte_ms = c->next_byte = 0;
    while (c->client >= 0 && c->out_len && now_ms() < deadline) {
        struct pollfd p = { .fd = c->client, .events = POLLOUT };
        if (poll(&p, 1, 100) > 0)
            channel_flush(c, deadline);
    }
}

/* Hands over the complete lines at the front of the buffer and keeps the rest. The callee may drop the client. */
static void hand_over(struct channel *c, void (*line)(void *arg, char *line, size_t len), void *arg)
{
    size_t start = 0;
    for (size_t i = 0; c->client >= 0 && i < c->in_len; i++) {
        if (c->in[i] != '\n' && c->in[i] != '\r')
            continue;
        c->in[i] = '\0';
        line(arg, c->in + start, i - start);
        start = i + 1;
    }
    if (c->client < 0)
        return;
    c->in_len -= start;
    memmove(c->in, c->in + start, c->in_len);
    if (!c->in_len) {
        free(c->in);
        c->in = NULL;
        c->in_cap = 0;
    }
}

void channel_read(struct channel *c, void (*line)(void *arg, char *line, size_t len), void *arg)
{
    char *in = grow(&c->in, &c->in_cap, c->in_len + 512);
    ssize_t n = recv(c->client, in + c->in_len, 512, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || c->in_len > LINE_LIMIT) {
        channel_drop(c);
        return;
    }
    c->in_len += (size_t)n;
    hand_over(c, line, arg);
}
