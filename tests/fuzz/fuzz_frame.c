/* Any bytes through a stream, cut by the input itself: the first byte chooses the delimiter and the limits, the second seeds the
 * cuts. Frames must come out as memchr() would cut them, whatever arrives at once; each frame is sent back through a socket with a small
 * buffer, read a few bytes at a time, and must arrive whole. */
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "lib/loop/stream.h"
#include "tests/fuzz/fuzz.h"

enum { IN_MAX_SMALL = 16, IN_MAX_LARGE = 1 << 20, OUT_MAX = 1 << 22 };

struct harness {
    struct loop *loop;
    struct stream *stream;
    int fd;
    int delimiter;
    const uint8_t *data;        /* what is fed */
    size_t size, fed, expected; /* how far on_frame() has followed it */
    size_t in_max;
    uint8_t *echo; /* what came back */
    size_t echoed, echo_expected;
    uint32_t random;
    bool pauses, free_early, closed;
    int error;
};

static uint32_t next_random(struct harness *h)
{
    h->random = h->random * 1664525 + 1013904223;
    return h->random >> 16;
}

static void on_frame(void *arg, char *frame, size_t len)
{
    struct harness *h = arg;
    const uint8_t *at = h->data + h->expected;
    size_t left = h->fed - h->expected, want = left;

    if (h->delimiter != STREAM_RAW) {
        const uint8_t *end = memchr(at, h->delimiter, left);

        if (!end || len > h->in_max)
            abort();
        want = (size_t)(end - at);
        if (len != want)
            abort();
        h->expected += 1;
    }
    if (len > left || memcmp(frame, at, len) != 0 || frame[len] != '\0')
        abort();
    h->expected += len;
    if (h->free_early && next_random(h) % 8 == 0) {
        stream_free(steal_ptr(&h->stream));
        return;
    }
    if (stream_send(h->stream, frame, len) == 0)
        h->echo_expected += len + (h->delimiter != STREAM_RAW);
    if (h->pauses && next_random(h) % 4 == 0)
        stream_pause(h->stream, true);
}

static void on_close(void *arg, int error)
{
    struct harness *h = arg;

    if (h->closed)
        abort();
    h->closed = true;
    h->error = error;
}

/* Reads some of what was sent back. False when there is nothing. */
static bool read_echo(struct harness *h, size_t most)
{
    ssize_t n = recv(h->fd, h->echo + h->echoed, most, 0);

    if (n <= 0)
        return false;
    h->echoed += (size_t)n;
    return true;
}

static void turn(struct harness *h)
{
    ev_run(loop_ev(h->loop), EVRUN_NOWAIT);
    if (h->stream && !h->closed && h->pauses)
        stream_pause(h->stream, false);
}

static void feed(struct harness *h)
{
    while (h->fed < h->size && h->stream && !h->closed) {
        size_t left = h->size - h->fed, most = next_random(h) % 3 == 0 ? 1 : next_random(h) % 5000 + 1, cut = most < left ? most : left;
        ssize_t n;

        /* Counted before it is sent: the stream may hand it on at once. */
        n = send(h->fd, h->data + h->fed, cut, MSG_NOSIGNAL);
        if (n > 0)
            h->fed += (size_t)n;
        turn(h);
        read_echo(h, next_random(h) % 700 + 1);
    }
    for (int idle = 0; idle < 4 && h->stream && !h->closed;) {
        turn(h);
        idle = read_echo(h, next_random(h) % 3000 + 1) ? 0 : idle + 1;
    }
}

static void check_end(struct harness *h)
{
    const uint8_t *rest = h->data + h->expected;
    size_t left = h->fed - h->expected;
    const uint8_t *end = left && h->delimiter != STREAM_RAW ? memchr(rest, h->delimiter, left) : NULL;
    size_t len = end ? (size_t)(end - rest) : left;

    if (!h->stream)
        return; /* freed by itself */
    if (!h->closed) {
        /* Everything whole was handed on and came back. */
        if (end || (h->delimiter == STREAM_RAW && left > 0) || h->echoed != h->echo_expected)
            abort();
        if (memcmp(h->echo, h->data, h->echoed) != 0)
            abort();
        shutdown(h->fd, SHUT_WR);
        for (int n = 0; n < 4 && !h->closed; n++)
            turn(h);
        if (!h->closed || h->error != (left > 0 ? -ECONNRESET : 0))
            abort();
        return;
    }
    /* Before its end only a frame that is too long closes it. */
    if (h->error != -EMSGSIZE || len <= h->in_max)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int delimiters[] = { '\0', '\n', STREAM_RAW, 0xff };
    struct harness h = { .fd = -1 };
    int pair[2], small = 2048;

    if (size < 2)
        return 0;
    h.delimiter = delimiters[data[0] & 3];
    h.in_max = data[0] & 4 ? IN_MAX_SMALL : IN_MAX_LARGE;
    h.pauses = data[0] & 8;
    h.free_early = data[0] & 16;
    h.random = data[1];
    h.data = data + 2;
    h.size = size - 2;
    h.echo = malloc(size + 8192);
    if (!h.echo || loop_new(&h.loop) < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        abort();
    h.fd = pair[1];
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    if (stream_new_take(h.loop, pair[0],
                        &(struct stream_config){
                            .delimiter = h.delimiter,
                            .in_max = h.in_max,
                            .out_max = OUT_MAX,
                            .frame_timeout_ms = 60 * 1000,
                            .on_frame = on_frame,
                            .on_close = on_close,
                            .arg = &h,
                        },
                        &h.stream) < 0)
        abort();
    feed(&h);
    check_end(&h);
    stream_free(h.stream);
    loop_free(h.loop);
    fd_close(h.fd);
    free(h.echo);
    return 0;
}
