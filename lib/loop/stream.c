#include "lib/loop/stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/socket.h"
#include "lib/loop/byte_queue.h"

enum {
    READ_CHUNK = 4096, /* read on the stack first: an idle stream holds no buffer, and a small process no big stack */
    READ_ROUNDS = 16,  /* reads in one callback, so that one busy stream doesn't hold up the others */
};

/* Sizes are 32 bits wide: a manager holds a thousand of these, and no limit is near 4 GiB. */
struct stream {
    struct loop *loop;
    void (*on_frame)(void *arg, char *data, size_t len);
    void (*on_close)(void *arg, int error);
    void (*on_drained)(void *arg);
    void *arg;
    uint32_t in_max, out_max, frame_timeout_ms;
    int delimiter;
    ev_io io;
    ev_timer timer;           /* runs while a begun frame is incomplete */
    struct deferred deferred; /* for whatever must not happen inside a caller's or a callback's frame */

    /* Input not handed on yet is in[in_pos … in_len); in_scanned says up to where no delimiter was found. While
     * on_frame runs, `in` may be a buffer on the stack of on_readable() (in_cap is 0 then). One byte is kept for a NUL. */
    char *in;
    uint32_t in_pos, in_len, in_cap, in_scanned;

    struct byte_queue out;

    int error; /* what to close with, once the deferred function runs */
    bool is_socket : 1;
    bool paused : 1;
    bool flushing : 1; /* stream_close_after_flush() was called */
    bool eof : 1;      /* the other side sends no more; what is queued is still written */
    bool error_set : 1;
    bool handing_on : 1; /* on_frame is running */
    bool closed : 1;
    bool freed : 1;
};

static void stop(struct stream *s)
{
    ev_io_stop(loop_ev(s->loop), &s->io);
    ev_timer_stop(loop_ev(s->loop), &s->timer);
    s->io.fd = fd_close(s->io.fd);
}

static void drop_in(struct stream *s)
{
    if (s->in_cap)
        free(s->in);
    s->in = NULL;
    s->in_pos = s->in_len = s->in_cap = s->in_scanned = 0;
}

static void close_now(struct stream *s, int error)
{
    if (s->closed || s->freed)
        return;
    if (s->error_set)
        error = s->error;
    s->closed = true;
    stop(s);
    loop_undefer(&s->deferred);
    s->on_close(s->arg, error);
}

/* The watcher's events follow from the state; a write watcher runs only while something is queued. */
static void update_events(struct stream *s)
{
    int events = 0;

    if (s->closed || s->freed)
        return;
    if (!s->paused && !s->flushing && !s->eof)
        events |= EV_READ;
    if (stream_queued(s) > 0)
        events |= EV_WRITE;
    if (ev_is_active(&s->io) && (s->io.events & (EV_READ | EV_WRITE)) == events)
        return;
    ev_io_stop(loop_ev(s->loop), &s->io);
    if (events) {
        ev_io_set(&s->io, s->io.fd, events);
        ev_io_start(loop_ev(s->loop), &s->io);
    }
}

/* The deadline is for the whole frame: more bytes don't extend it, only the end of a frame does. */
static void update_timer(struct stream *s, bool frame_ended)
{
    bool wanted = s->frame_timeout_ms > 0 && s->delimiter != STREAM_RAW && !s->paused && s->in_pos < s->in_len;

    if (!wanted || frame_ended)
        ev_timer_stop(loop_ev(s->loop), &s->timer);
    if (wanted && !ev_is_active(&s->timer)) {
        /* Relative to now, not to when the loop last woke: a deadline is never short. */
        ev_now_update(loop_ev(s->loop));
        ev_timer_set(&s->timer, (double)s->frame_timeout_ms / 1000., 0.);
        ev_timer_start(loop_ev(s->loop), &s->timer);
    }
}

/* The next whole frame of the input, NUL-ended: 1, 0 when there is none yet, -EMSGSIZE. */
static int next_frame(struct stream *s, char **ret_frame, size_t *ret_len)
{
    size_t len, skip = 0;

    if (s->in_pos >= s->in_len)
        return 0;
    if (s->delimiter == STREAM_RAW) {
        len = s->in_len - s->in_pos;
    } else {
        size_t from = s->in_scanned > s->in_pos ? s->in_scanned : s->in_pos;
        char *end = memchr(s->in + from, s->delimiter, s->in_len - from);

        len = (end ? (size_t)(end - s->in) : s->in_len) - s->in_pos;
        if (len > s->in_max)
            return -EMSGSIZE;
        if (!end) {
            s->in_scanned = s->in_len;
            return 0;
        }
        skip = 1;
    }
    *ret_frame = s->in + s->in_pos;
    *ret_len = len;
    (*ret_frame)[len] = '\0';
    s->in_pos += (uint32_t)(len + skip);
    return 1;
}

/* An end of file in the middle of a frame is no orderly end. */
static int eof_error(const struct stream *s) { return s->in_len > 0 && s->delimiter != STREAM_RAW ? -ECONNRESET : 0; }

static bool may_read(const struct stream *s)
{
    return !s->paused && !s->flushing && !s->closed && !s->freed && !(s->error_set && s->error == -ENOBUFS);
}

/* What remains of the input becomes a heap buffer of its own, or none at all. */
static int keep_rest(struct stream *s)
{
    size_t rest = s->in_len - s->in_pos;

    if (rest == 0) {
        drop_in(s);
        return 0;
    }
    if (s->in_cap == 0) {
        size_t cap = rest + READ_CHUNK / 4;
        char *copy = malloc(cap);

        if (!copy)
            return -ENOMEM;
        memcpy(copy, s->in + s->in_pos, rest);
        s->in = copy;
        s->in_cap = (uint32_t)cap;
    } else if (s->in_pos > 0) {
        memmove(s->in, s->in + s->in_pos, rest);
    }
    s->in_scanned = s->in_scanned > s->in_pos ? s->in_scanned - s->in_pos : 0;
    s->in_len = (uint32_t)rest;
    s->in_pos = 0;
    return 0;
}

/* Hands on every whole frame there is. False when the stream is no more: closed, freed or detached. */
static bool hand_on(struct stream *s)
{
    bool ended = false;
    int r = 0;

    s->handing_on = true;
    while (may_read(s)) {
        char *frame;
        size_t len;

        r = next_frame(s, &frame, &len);
        if (r <= 0)
            break;
        ended = true;
        s->on_frame(s->arg, frame, len);
    }
    s->handing_on = false;
    if (!s->freed && !s->closed && s->flushing)
        s->in_pos = s->in_len; /* nobody will read it */
    if (s->freed || s->closed) {
        s->in_pos = s->in_len;
        keep_rest(s);
        return false;
    }
    if (r >= 0)
        r = keep_rest(s);
    if (r < 0) {
        s->in_pos = s->in_len;
        keep_rest(s);
        close_now(s, r);
        return false;
    }
    update_timer(s, ended);
    return true;
}

/* Reads once, straight behind what is kept or else into `chunk`, and hands on. 1: there may be more, 0: not now or no more,
 * -errno: closed. */
static int read_once(struct stream *s, char chunk[READ_CHUNK])
{
    size_t space;
    ssize_t n;

    if (s->in_len == 0) {
        drop_in(s);
        s->in = chunk;
        space = READ_CHUNK - 1;
    } else {
        if (s->in_cap - s->in_len < READ_CHUNK / 2) {
            size_t cap = s->in_cap * 2 < READ_CHUNK ? READ_CHUNK : s->in_cap * 2;
            char *bigger = realloc(s->in, cap);

            if (!bigger)
                return -ENOMEM;
            s->in = bigger;
            s->in_cap = (uint32_t)cap;
        }
        space = s->in_cap - s->in_len - 1;
    }
    n = read(s->io.fd, s->in + s->in_len, space);
    if (n <= 0) {
        int r = n < 0 ? -errno : 0;

        if (s->in_cap == 0)
            s->in = NULL;
        if (r == -EAGAIN || r == -EINTR)
            return 0;
        if (r < 0)
            return r;
        s->eof = true;
        return 0;
    }
    s->in_len += (uint32_t)n;
    if (!hand_on(s))
        return 0;
    return (size_t)n == space;
}

/* Reads what there is. False when the stream is no more. */
static bool read_some(struct stream *s, int rounds)
{
    char chunk[READ_CHUNK];
    int r = 1;

    while (r > 0 && rounds-- > 0 && may_read(s))
        r = read_once(s, chunk);
    if (s->closed || s->freed)
        return false;
    if (r < 0 || (s->eof && stream_queued(s) == 0)) {
        close_now(s, r < 0 ? r : eof_error(s));
        return false;
    }
    return true;
}

static ssize_t write_fd(const struct stream *s, struct iovec *iov, size_t n)
{
    /* MSG_NOSIGNAL is for sockets only; who streams over a pipe ignores SIGPIPE. */
    if (s->is_socket)
        return sendmsg(s->io.fd, &(struct msghdr){ .msg_iov = iov, .msg_iovlen = n }, MSG_NOSIGNAL);
    return writev(s->io.fd, iov, (int)n);
}

static void deferred_run(void *arg)
{
    struct stream *s = arg;

    if (s->freed) {
        drop_in(s);
        byte_queue_clear(&s->out);
        free(s);
        return;
    }
    if (s->error_set) {
        /* The other side may have said why before it went: a reply to read after a failed write. */
        if (s->in_len > 0 && may_read(s) && !hand_on(s))
            return;
        if (!s->eof && may_read(s) && !read_some(s, READ_ROUNDS))
            return;
        close_now(s, s->error);
    } else if (s->flushing && stream_queued(s) == 0) {
        close_now(s, 0);
    } else if (!s->paused && s->in_len > 0) {
        if (hand_on(s))
            update_events(s);
    }
}

/* Closes by way of the loop, for use where the caller doesn't expect a callback. */
static int fail_later(struct stream *s, int error)
{
    if (!s->error_set) {
        s->error_set = true;
        s->error = error;
    }
    byte_queue_clear(&s->out);
    update_events(s);
    loop_defer(s->loop, &s->deferred, deferred_run, s);
    return error;
}

static void write_some(struct stream *s)
{
    struct iovec iov = { .iov_base = (void *)(uintptr_t)byte_queue_head(&s->out), .iov_len = byte_queue_len(&s->out) };
    ssize_t n = write_fd(s, &iov, 1);

    if (n < 0) {
        if (errno != EAGAIN && errno != EINTR)
            fail_later(s, -errno);
        return;
    }
    byte_queue_consume(&s->out, (size_t)n);
    if (stream_queued(s) > 0)
        return;
    update_events(s);
    if (s->flushing || s->eof) {
        close_now(s, s->flushing ? 0 : eof_error(s));
        return;
    }
    if (s->on_drained)
        s->on_drained(s->arg);
}

static void on_event(struct ev_loop *ev, ev_io *io, int revents)
{
    struct stream *s = container_of(io, struct stream, io);

    if (revents & EV_ERROR) {
        close_now(s, -EBADF);
        return;
    }
    if ((revents & EV_WRITE) && stream_queued(s) > 0)
        write_some(s);
    if (s->closed || s->freed || s->error_set)
        return;
    if ((revents & EV_READ) && !s->eof && may_read(s) && !read_some(s, READ_ROUNDS))
        return;
    update_events(s);
}

static void on_timeout(struct ev_loop *ev, ev_timer *w, int revents) { close_now(container_of(w, struct stream, timer), -ETIMEDOUT); }

int stream_new_take(struct loop *l, int fd, const struct stream_config *config, struct stream **ret_stream)
{
    struct stat st;
    struct stream *s;

    if (fd < 0 || !config->on_frame || !config->on_close || config->delimiter < STREAM_RAW || config->delimiter > 255)
        return -EINVAL;
    if (config->in_max > STREAM_LIMIT_MAX || config->out_max > STREAM_LIMIT_MAX || config->frame_timeout_ms > UINT32_MAX)
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    s->loop = l;
    s->on_frame = config->on_frame;
    s->on_close = config->on_close;
    s->on_drained = config->on_drained;
    s->arg = config->arg;
    s->delimiter = config->delimiter;
    s->in_max = (uint32_t)config->in_max;
    s->out_max = (uint32_t)config->out_max;
    s->frame_timeout_ms = (uint32_t)config->frame_timeout_ms;
    s->is_socket = S_ISSOCK(st.st_mode);
    ev_io_init(&s->io, on_event, fd, EV_READ);
    ev_init(&s->timer, on_timeout);
    update_events(s);
    *ret_stream = s;
    return 0;
}

void stream_free(struct stream *s)
{
    if (!s || s->freed)
        return;
    s->freed = true;
    stop(s);
    loop_undefer(&s->deferred);
    loop_defer(s->loop, &s->deferred, deferred_run, s);
}

int stream_send_fd(struct stream *s, const void *data, size_t len, int fd)
{
    if (fd < 0)
        return stream_send(s, data, len);
    if (s->closed || s->freed || s->flushing || s->error_set)
        return -EPIPE;
    if (!s->is_socket || stream_queued(s) > 0)
        return -EBUSY;
    /* The descriptor goes with the first byte; the rest follows as any other data. */
    ssize_t n = socket_send_fd(s->io.fd, data, len, fd);

    if (n < 0)
        return n == -EAGAIN || n == -EINTR ? -EBUSY : fail_later(s, (int)n);
    return stream_send(s, (const char *)data + n, len - (size_t)n);
}

int stream_send(struct stream *s, const void *data, size_t len)
{
    char delimiter = (char)s->delimiter;
    size_t tail = s->delimiter == STREAM_RAW ? 0 : 1, written = 0;
    int r;

    if (s->closed || s->freed || s->flushing || s->error_set)
        return -EPIPE;
    if (len > s->out_max || stream_queued(s) + len + tail > s->out_max)
        return fail_later(s, -ENOBUFS);
    if (stream_queued(s) == 0 && len + tail > 0) {
        struct iovec iov[] = { { .iov_base = (void *)(uintptr_t)data, .iov_len = len }, { .iov_base = &delimiter, .iov_len = tail } };
        ssize_t n = write_fd(s, iov, 1 + tail);

        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return fail_later(s, -errno);
        written = n > 0 ? (size_t)n : 0;
    }
    if (written == len + tail)
        return 0;
    r = byte_queue_reserve(&s->out, len + tail - written);
    if (r < 0) /* half a frame is out: the stream can't go on */
        return written > 0 ? fail_later(s, r) : r;
    if (written < len)
        byte_queue_append(&s->out, (const char *)data + written, len - written);
    byte_queue_append(&s->out, &delimiter, tail);
    update_events(s);
    return 0;
}

size_t stream_queued(const struct stream *s) { return byte_queue_len(&s->out); }

void stream_pause(struct stream *s, bool paused)
{
    if (s->paused == paused || s->closed || s->freed)
        return;
    s->paused = paused;
    update_events(s);
    if (s->handing_on)
        return;
    /* What was left over when the pause began is handed on by the loop, not inside of this call. */
    if (!paused && s->in_len > 0)
        loop_defer(s->loop, &s->deferred, deferred_run, s);
    if (paused)
        ev_timer_stop(loop_ev(s->loop), &s->timer);
}

void stream_close_after_flush(struct stream *s)
{
    if (s->closed || s->freed)
        return;
    s->flushing = true;
    ev_timer_stop(loop_ev(s->loop), &s->timer);
    update_events(s);
    if (stream_queued(s) == 0)
        loop_defer(s->loop, &s->deferred, deferred_run, s);
}

int stream_detach(struct stream *s, int *ret_fd, char **ret_rest, size_t *ret_rest_len)
{
    size_t len = s->in_len - s->in_pos;
    char *rest = NULL;

    if (s->closed || s->freed || s->error_set)
        return -EPIPE;
    if (stream_queued(s) > 0)
        return -EBUSY;
    if (len > 0) {
        rest = malloc(len + 1);
        if (!rest)
            return -ENOMEM;
        memcpy(rest, s->in + s->in_pos, len);
        rest[len] = '\0';
    }
    ev_io_stop(loop_ev(s->loop), &s->io);
    *ret_fd = s->io.fd;
    *ret_rest = rest;
    *ret_rest_len = len;
    s->io.fd = -1;
    stream_free(s);
    return 0;
}

int stream_fd(const struct stream *s) { return s->io.fd; }
