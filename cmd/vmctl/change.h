/* Commands that change VMs, on several at once: call, show progress on a terminal, tell the end of each in a line or all in one JSON. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"

struct change {
    const char *method;       /* of the manager, without the interface: "Stop" */
    const char *doing;        /* "stopping" */
    const json_t *parameters; /* besides name; borrowed, may be NULL */
    int64_t timeout_ms;       /* how long we wait, negative: without end */
    bool wait;                /* false: the first reply will do */
    /* The line for people when it went well: what follows "NAME: ". malloc'ed. `reply` is never NULL. */
    char *(*told)(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg);
    void *arg;
    json_t *results; /* with --json: the array to add to, which the caller prints; NULL: we make and print one */
};

/* `names`: a vector's items, NULL allowed when n is 0. */
enum outcome change_run(const struct invocation *in, const struct change *c, char *const *names, size_t n);

/* The usual verb: names or --all, then change_run(). */
enum outcome change_verb(const struct invocation *in, const struct change *c);

/* "running (0.9 s)", from reply.vm.state, or with --no-wait "asked". A `told` for Start, Stop, Restart, Kill, Wait. */
char *change_told_state(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg);

/* Whole verbs. What is done at once: `told` is the line when it went well, "paused". What stops first takes FLAG_FORCE, FLAG_STOP_TIMEOUT and
 * FLAG_NO_WAIT. */
enum outcome change_at_once(const struct invocation *in, const char *method, const char *doing, const char *told);
enum outcome change_stopping(const struct invocation *in, const char *method, const char *doing);
