/* One call to a shim on a connection of its own: the line that follows events is never free for answers (Varlink answers in order), and a
 * call that hangs spoils nothing else. */
#pragma once

#include "lib/manager/vm.h"
#include "lib/varlink/peer.h"

struct shim_call;

/* `parameters` consumed. `done` is called exactly once unless -errno is returned; `vm` is referenced for as
 * long. timeout_ms 0: none. */
int shim_call_consume(struct vm *vm, const char *method, json_t *parameters, uint64_t timeout_ms,
                      void (*done)(void *arg, struct vm *vm, const struct varlink_reply *r), void *arg);

/* The same for a call with many replies and no deadline: `done` is called for each, the last of them has `continues` false or a failure. */
int shim_call_more_consume(struct vm *vm, const char *method, json_t *parameters,
                           void (*done)(void *arg, struct vm *vm, const struct varlink_reply *r), void *arg);

struct manager;
/* Ends all calls with -ECANCELED, at the manager's end. */
void shim_calls_clear(struct manager *m);
