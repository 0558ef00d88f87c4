/* Calls that are answered when a VM has come to where they want it, or when it is clear that it won't. */
#pragma once

#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/manager/vm.h"

struct varlink_call;

enum wait_kind {
    WAIT_STARTED,   /* runs, with an incarnation >= target */
    WAIT_STOPPED,   /* nothing of incarnation <= target lives */
    WAIT_CONDITION, /* is in the view `condition`, or healthy */
    WAIT_APPLIED,   /* the wish is on disk */
    WAIT_DELETED,   /* forgotten */
};

enum { CONDITION_HEALTHY = VIEW_COUNT };

struct wait_for {
    enum wait_kind kind;
    uint64_t target;
    bool written; /* `write` must be on disk first */
    uint32_t write;
    int condition;
    bool resumed;        /* WAIT_STARTED: paused is not enough */
    bool killed;         /* WAIT_STOPPED: by a signal, so that an orphan, too, may be expected to end */
    uint64_t timeout_ms; /* 0: none */
    json_t *reply;       /* WAIT_APPLIED: the answer; WAIT_STARTED: what is in it besides the VM. Consumed, may be NULL */
    bool restored;       /* WAIT_STARTED: from a snapshot, for the words when it fails */
};

/* Owns the call from here on; may answer it at once. */
void wait_begin_consume(struct vm *vm, struct varlink_call *call, const struct wait_for *what);

/* The same for somebody of ours instead of a client, WAIT_STARTED alone: `told` is called once, perhaps at once, with err NULL when the
 * VM runs. */
void wait_begin_told(struct vm *vm, const struct wait_for *what, void (*told)(void *arg, struct vm *vm, const struct err *err), void *arg);

/* Something has changed: answers those that are there. */
void waiters_check(struct vm *vm);
/* A line for those that asked for more. */
void waiters_progress(struct vm *vm, const char *text);
/* The VM was taken out of the registry: deletes are done, all others have lost their VM. `kept`: what was left on disk. */
void waiters_deleted(struct vm *vm, const json_t *kept);
/* The delete could not be finished. */
void waiters_delete_failed(struct vm *vm, const char *text);
void waiters_forgotten(struct vm *vm);
/* Without any answer, at the manager's end. */
void waiters_drop(struct vm *vm);
