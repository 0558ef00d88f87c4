/* Changes of a VM's plan that need no restart, made at once in the shim that runs it. */
#pragma once

#include "lib/manager/planner.h"

struct live_result {
    bool restart_needed;   /* it goes on with its earlier plan until then */
    const json_t *changed; /* what is different now, an array of lines; NULL: nothing */
    const char *id;        /* why it failed; NULL: it didn't, or nothing was to do */
    const char *error;
};

/* `p` was planned with PLAN_SHOW and without an error. If all that differs from what runs can change while it runs, the shim is told, and
 * `done` hears what became of it, once. What can't be done at this moment (the VM is being started or stopped, the shim has just gone) is
 * tried again when it can. */
void live_begin_consume(struct plan_request *p, void (*done)(void *arg, struct vm *vm, const struct live_result *r), void *arg);

/* Plans anew first. `done` is called once, at once or later. */
void live_change(struct vm *vm, void (*done)(void *arg, struct vm *vm, const struct live_result *r), void *arg);

/* Plans anew and does that; the result is logged. For whoever finds that a spec has changed. */
void live_update(struct vm *vm);
/* The VM's plan was made anew, or its shim has told by which it runs: live_update() if they differ. */
void live_check(struct vm *vm);
/* The shim has told its status: what had to wait may be possible. */
void live_status(struct vm *vm);
