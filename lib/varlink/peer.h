/* A nonblocking Varlink client on the loop: the manager's line to a shim. Calls may be pipelined; replies come in order. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/loop/loop.h"
#include "lib/varlink/idl.h"

struct varlink_peer;

struct varlink_reply {
    int failure;              /* 0, or -errno of ours: -ETIMEDOUT, -ECONNRESET, -EPROTO; then the rest is NULL */
    const char *error;        /* NULL, or the Varlink error's full name */
    const json_t *parameters; /* borrowed, checked leniently against the interface, never NULL when failure is 0 */
    bool continues;
};

/* Takes a connected nonblocking fd on success. `closed` is called once when the connection ends (after all outstanding calls were told -ECONNRESET);
 * the owner frees the peer then or whenever it likes, also from inside a callback. */
int varlink_peer_new_take(struct loop *l, int fd, const struct varlink_interface *i, void (*closed)(void *arg, int error), void *arg,
                          struct varlink_peer **ret_peer);
void varlink_peer_free(struct varlink_peer *p); /* outstanding calls are not told */
DEFINE_CLEANUP(struct varlink_peer *, varlink_peer, varlink_peer_free)

enum varlink_call_flags { VARLINK_MORE = 1 << 0, VARLINK_ONEWAY = 1 << 1 };

/* `method` without the interface. `parameters` consumed, NULL: {}. `timeout_ms` bounds the wait for the first reply (0: none); when it
 * passes, the call is told -ETIMEDOUT and the connection is closed, since later replies could no longer be matched. */
int varlink_peer_call_consume(struct varlink_peer *p, const char *method, json_t *parameters, unsigned flags, uint64_t timeout_ms,
                              void (*reply)(void *arg, const struct varlink_reply *r), void *arg);
