/* The one QMP client of a QEMU (it serves a single one): commands with ids and deadlines, events handed on. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/loop/loop.h"

struct qmp_client;

enum { QMP_TIMEOUT_MS = 10 * 1000 };

struct qmp_result {
    int failure;         /* 0; -ETIMEDOUT, -ECONNRESET; -EREMOTEIO: QEMU answered with an error */
    const char *class;   /* QMP error class, with -EREMOTEIO */
    const char *text;    /* in words, when failure isn't 0 */
    const json_t *reply; /* the whole message, when QEMU answered */
};

struct qmp_client_config {
    void (*ready)(void *arg); /* greeting and capabilities negotiation are done: commands may be sent */
    /* An asynchronous message of QEMU, or "greeting" (which no QMP event is called: theirs are in capitals). From the greeting on commands
     * may be sent as well, behind the negotiation: QEMU takes them in order, and greets long before it begins to. */
    void (*event)(void *arg, const char *name, const json_t *data);
    void (*closed)(void *arg, int error); /* QEMU hung up; calls under way were told before */
    void *arg;
};

/* Takes a connected, nonblocking socket on success. */
int qmp_client_new_take(struct loop *l, int fd, const struct qmp_client_config *config, struct qmp_client **ret_client);
void qmp_client_free(struct qmp_client *c); /* calls under way are told -ECONNRESET */
DEFINE_CLEANUP(struct qmp_client *, qmp_client, qmp_client_free)

/* Sends a command; `done` (may be NULL) is called once. After its deadline a call is told -ETIMEDOUT and a late answer is dropped.
 * `arguments` is borrowed. -ENOTCONN before ready, -ENOMEM, -ENOBUFS: then `done` isn't called. */
int qmp_client_call(struct qmp_client *c, const char *command, const json_t *arguments, uint64_t timeout_ms,
                    void (*done)(void *arg, const struct qmp_result *r), void *arg);

struct qmp_done {
    uint64_t timeout_ms; /* 0: none */
    void (*done)(void *arg, const struct qmp_result *r);
    void *arg;
};
/* The same, with a descriptor for QEMU going along (add-fd, getfd); -1: none. `fd` stays the caller's. Also -EBUSY: see stream_send_fd(). */
int qmp_client_call_fd(struct qmp_client *c, const char *command, const json_t *arguments, int fd, const struct qmp_done *done);
