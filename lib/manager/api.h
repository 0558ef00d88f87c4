/* io.holdfast.Manager: methods in one table, and the errors they share. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/manager/vm.h"

struct manager;
struct varlink_call;
struct varlink_method;
struct varlink_reply;

#define MANAGER_INTERFACE "io.holdfast.Manager"

int api_start(struct manager *m, struct err *err);

/* ---- the errors of the interface; each ends the call ---- */
void api_no_such_snapshot(struct varlink_call *call, const char *vm, const char *snapshot);
void api_no_such_vm(struct varlink_call *call, const char *name);
void api_refuse(struct varlink_call *call, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void api_timed_out(struct varlink_call *call, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* `detail` may be NULL. */
void api_fail(struct varlink_call *call, const char *name, const char *id, const char *detail, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));
void api_fail_memory(struct varlink_call *call);
/* `problems` (of BadSpec) is consumed. */
void api_bad_spec_consume(struct varlink_call *call, json_t *problems);
#define API_UNRESPONSIVE \
    "the shim of %s (process %d) doesn't answer; the VM was left alone, and the wish is carried out when it answers" /* name, pid */
#define API_DRAINING "the host is being drained: no VM is started until it has rebooted, or \"vmctl drain --off\""
void api_unresponsive(struct varlink_call *call, const struct vm *vm);

/* A call that is answered later: becomes NULL when the client goes away first. */
struct answer {
    struct varlink_call *call;
};
void answer_bind(struct answer *a, struct varlink_call *call);

/* ---- handlers, by file ---- */
typedef void api_handler(struct varlink_call *call, const json_t *parameters, void *userdata);
api_handler api_list, api_get, api_inspect, api_wait, api_events; /* api_look.c */
api_handler api_start_vm, api_stop, api_restart, api_kill;        /* api_wish.c */
api_handler api_pause, api_resume, api_reset, api_qmp;            /* api_shim.c */
api_handler api_memory;                                           /* api_shim.c */
api_handler api_adopt;                                            /* adopt.c */
api_handler api_apply, api_delete;                                /* api_spec.c */
api_handler api_diff;                                             /* api_diff.c */
api_handler api_snapshot_create;                                  /* api_snapshot_create.c */
api_handler api_snapshot_list, api_snapshot_show;                 /* api_snapshot.c */
api_handler api_snapshot_delete, api_snapshot_verify;             /* api_snapshot.c */
api_handler api_snapshot_warm;                                    /* warm.c */
api_handler api_restore, api_clone;                               /* api_restore.c */
api_handler api_drain;                                            /* drain.c */

/* Wishes that a next life of the VM begins, from a snapshot or (NULL) by booting; *ret_from: its number. Sets restore->from. The number
 * of the write; vm_changed() is the caller's to call. */
uint32_t api_wish_life(struct vm *vm, struct wanted_restore *restore, uint64_t *ret_from);
/* The shim's errors, and what they are to our callers. Ends the call. */
void api_hand_on_error(struct varlink_call *call, struct vm *vm, const struct varlink_reply *r);

/* The VM a call names, or NULL and the call is answered. */
struct vm *api_vm(struct manager *m, struct varlink_call *call, const json_t *parameters);
