/* A nonblocking byte stream on the loop: cuts input at a delimiter (Varlink: NUL, QMP: newline) or hands it on raw, queues
 * output, and keeps to its limits. Buffers exist only while they hold something, so an idle stream costs one small struct.
 *
 * Callbacks may call stream_free() on their own stream: it is stopped at once and freed by the loop afterwards. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/loop/loop.h"

enum { STREAM_RAW = -1, STREAM_LIMIT_MAX = 1 << 30 };

struct stream;

struct stream_config {
    int delimiter;  /* 0..255, or STREAM_RAW */
    size_t in_max;  /* longest frame; a longer one closes with -EMSGSIZE. Not used in raw mode. Like out_max at most STREAM_LIMIT_MAX */
    size_t out_max; /* most bytes queued; more closes with -ENOBUFS: a slower reader is cut off */
    uint64_t frame_timeout_ms; /* longest time a begun frame may stay incomplete, 0: none; then closed with -ETIMEDOUT */
    /* One frame without its delimiter, NUL-ended in place for convenience; valid during the call only. In raw mode: what was
     * read. */
    void (*on_frame)(void *arg, char *data, size_t len);
    /* Once: 0 for an orderly end of file (after all whole frames were handed on), else -errno. The stream is stopped; the owner
     * frees it. Never called after stream_free(). */
    void (*on_close)(void *arg, int error);
    /* May be NULL: the queue has drained to nothing. */
    void (*on_drained)(void *arg);
    void *arg;
};

/* Owns `fd` (a nonblocking socket or pipe) on success. */
int stream_new_take(struct loop *l, int fd, const struct stream_config *config, struct stream **ret_stream);
void stream_free(struct stream *s);
DEFINE_CLEANUP(struct stream *, stream, stream_free)

/* Queues a copy of `len` bytes, then the delimiter (none in raw mode); tries to write at once. -ENOBUFS when the queue is full (the stream
 * then closes on the next iteration, through on_close), -EPIPE after close, -ENOMEM. */
int stream_send(struct stream *s, const void *data, size_t len);
/* As stream_send(), with a descriptor going along (unix(7), SCM_RIGHTS); -1: none. `fd` stays the caller's. -EBUSY when something is
 * queued, or the socket is full: nothing was sent, and it may be tried again once on_drained was called. */
int stream_send_fd(struct stream *s, const void *data, size_t len, int fd);
size_t stream_queued(const struct stream *s);

/* Stops reading (back-pressure) or takes it up again. */
void stream_pause(struct stream *s, bool paused);

/* No more input is read; the fd is closed and on_close(0) called once everything queued is written. */
void stream_close_after_flush(struct stream *s);

/* Takes the fd out, with bytes that were read but not handed on yet in *ret_rest (malloc'ed, maybe NULL). Output must be drained
 * (see stream_close_after_flush, on_drained), else -EBUSY. The stream is freed. */
int stream_detach(struct stream *s, int *ret_fd, char **ret_rest, size_t *ret_rest_len);

int stream_fd(const struct stream *s);
