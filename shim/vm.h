/* The one VM a shim supervises. This struct is the shim: each file of this folder is one duty on it.
 *
 *   state.c     the table of states and events, and the only place a state changes
 *   records.c   status, exit record, plan on disk            logs.c    logs of this and earlier boots (rotate.c, log_cut.c)
 *   prepare.c   the plan's steps before a launch             launch.c  QEMU: bind, fork, persist, go; and adoption
 *   monitor.c   what QMP tells                               ladder.c  stopping, rung by rung
 *   exits.c     QEMU's end, its reason, what follows         console.c viewers of the serial port
 *   health.c    probes and what is done about them           api.c     io.holdfast.Shim
 *   update.c    another plan for a VM that runs
 *   ram.c       the guest's RAM and where its pages come from   restore.c, snapshot.c   a guest from a snapshot, and a snapshot of one */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/backoff.h"
#include "lib/base/err.h"
#include "lib/base/file.h"
#include "lib/base/pidref.h"
#include "lib/loop/loop.h"
#include "lib/loop/pidwatch.h"
#include "lib/varlink/service.h"
#include "proto/exit.h"
#include "proto/plan.h"
#include "shim/events.h"
#include "shim/oom.h"
#include "shim/policy.h"
#include "shim/qmp_client.h"
#include "shim/tree.h"

struct agent_call;
struct console;
struct ram;
struct own_disks;
struct restore;
struct snapshot_job;
struct health;
struct monitor_call;
struct rotation;
struct update;

/* What can happen to a VM. The answer to each in each state is in state.c. */
enum vm_event {
    VM_GO,       /* the manager let us begin, or the back-off is over */
    VM_PREPARED, /* all steps done */
    VM_RESTORE,  /* likewise, and the guest isn't to boot but to begin as a snapshot */
    VM_RESUMED,  /* the guest runs */
    VM_PAUSED,   /* the guest stands still, QEMU lives */
    VM_STOP,     /* somebody wants it stopped */
    VM_ENDED,    /* QEMU is gone (or a step failed), for good, as it should */
    VM_FAILED,   /* … for good, as it should not */
    VM_RETRY,    /* … and its policy starts it again later */
};
enum { VM_EVENT_COUNT = VM_RETRY + 1 };
extern const struct enum_names vm_event_names;

struct vm {
    struct loop *loop;
    struct plan plan;
    char digest[17];
    char boot_id[BOOT_ID_LEN + 1];
    uint64_t shim_start_time;

    int run_fd, state_fd, log_fd; /* the VM's three folders */
    int shim_lock, vm_lock;       /* -1: not held by us (an adopted QEMU holds vm.lock itself) */

    enum vm_state state;
    uint64_t since; /* real time, microseconds */
    char *detail;   /* one line on the state, or NULL */
    uint64_t incarnation;
    uint64_t restarts;
    struct backoff backoff;
    ev_timer retry;
    uint64_t retry_ms;
    struct exit_record last_exit; /* schema 0: none */

    struct {
        int step; /* index into plan.prepare */
        struct pidref child;
        struct pidwatch watch;
    } prepare;

    struct {
        struct pidref ref; /* pid 0: none runs */
        bool child;        /* ours to reap; false: adopted */
        struct pidwatch watch;
        uint64_t started; /* CLOCK_BOOTTIME microseconds */
        struct qmp_client *qmp;
        bool qmp_ready;  /* commands may be sent */
        bool qmp_closed; /* it has said its last word */
        bool ran;        /* the guest was let run at least once */
        bool gone;       /* exited, and the last words of its monitor are awaited */
        ev_timer last_words;
        unsigned asked_status; /* how often the kernel was asked how it ended */
        char *shutdown_reason;
        char *doom;    /* why we killed it, where nobody had asked for that; NULL: we didn't */
        char *version; /* as it greeted, "7.2.22" */
        struct oom_watch oom;
        struct exit_cause cause; /* known once it is gone, concluded when its tree is too */
        uint64_t log_offset;     /* where this launch begins in qemu.log */
    } qemu;

    struct {
        bool asked;          /* somebody wants it stopped */
        bool for_health;     /* a probe wants it restarted */
        bool deadly;         /* a signal that ends QEMU was sent by us */
        int rung;            /* index into plan.stop */
        uint64_t timeout_ms; /* instead of the polite rung's, 0: the plan's */
        ev_timer next, repeat;
        ev_timer monitor;         /* active: the first rung waits for QEMU's monitor */
        struct agent_call *agent; /* the agent rung's word to the guest, under way */
    } stop;

    struct ram *ram;               /* of the QEMU that runs or is being started */
    struct own_disks *own_disks;   /* looked at, from the beginning of a boot's preparation to the next */
    struct restore *restore;       /* under way */
    struct snapshot_job *snapshot; /* under way */
    struct update *update;         /* changes of the plan: the one under way, then those that wait */
    bool no_room;                  /* QEMU paused the guest, since a write of its found the host's file system full */
    unsigned running_on;           /* times QEMU has yet to answer that the guest runs on after a snapshot */
    struct tree tree;
    struct event_ring events;
    struct monitor_call *monitors;
    struct console *console;
    struct rotation *rotation; /* of the logs; NULL: could not be watched */
    struct health *health;     /* NULL: no probes, or the guest hasn't run yet */
    struct varlink_interface *interface;
    struct varlink_service *service;
    bool finished; /* the last event was told; what is on disk is final */
    ev_timer linger;
};

/* ---- vm.c: life of the object ---- */

/* Takes the locks, opens folders, reads what a predecessor left, writes plan.json, binds shim.sock. Takes `plan`. With `adopt` a
 * running QEMU is expected, without it none may live. The errors are for the operator. */
int vm_new_take(struct loop *l, struct plan *plan, bool adopt, struct vm **ret_vm, struct err *err);
/* Releases everything; QEMU, if it runs, runs on. */
void vm_free(struct vm *vm);
DEFINE_CLEANUP(struct vm *, vm, vm_free)
#define auto_vm auto_cleanup(vm_cleanup)

/* Undoes vm_new_take() on disk when the start was called off before anything ran. */
void vm_abandon(struct vm *vm);

/* ---- state.c ---- */

/* The only way to change the state. An event the table has no cell for is logged and refused with -EPERM. `detail` (may be NULL) says
 * why, in one line. */
int vm_handle(struct vm *vm, enum vm_event event, const char *detail);
/* What the table would do: -EPERM or the next state. */
int vm_would_become(enum vm_state state, enum vm_event event);

/* ---- records.c ---- */
int vm_write_record(int dirfd, const char *name, const struct record_type *type, const void *record, enum file_durability durability);
int vm_write_plan(struct vm *vm, struct err *err);
void vm_write_status(struct vm *vm); /* failures become events: the VM goes on */
int vm_read_predecessor(struct vm *vm, struct err *err);
/* Durable before it returns; a failure is logged and told as an event, and the record is still in memory. */
void vm_write_exit(struct vm *vm, const struct exit_record *record);
json_t *vm_status_to_wire(const struct vm *vm);

/* ---- prepare.c, launch.c, monitor.c, exits.c, ladder.c ---- */
void vm_prepare(struct vm *vm);               /* begins the plan's steps; VM_PREPARED follows */
void vm_prepare_steps(struct vm *vm);         /* what is left to do once the snapshot of a restore was looked at */
void vm_prepare_cancel(struct vm *vm);        /* kills the step under way and undoes it */
void vm_launch(struct vm *vm);                /* QEMU to its QMP greeting; failures end in vm_ended() */
int vm_adopt(struct vm *vm, struct err *err); /* takes a QEMU that a dead shim left */
int vm_connect_qmp(struct vm *vm);
void vm_continue(struct vm *vm);                  /* greeting came: let the guest run, or load it first */
void vm_let_run(struct vm *vm);                   /* cont */
void vm_stop_now(struct vm *vm, const char *why); /* of our own accord: from SIGTERM on */
void vm_ladder_begin(struct vm *vm);
void vm_ladder_monitor_ready(struct vm *vm); /* whatever waited for it goes on */
void vm_ladder_force(struct vm *vm);         /* from SIGTERM on */
void vm_ladder_end(struct vm *vm);
int vm_signal(struct vm *vm, int sig);
/* A step or launch failed before QEMU ran, with an exit status (wait(2)) when there is one. */
void vm_launch_failed(struct vm *vm, const int *wstatus, const char *detail);
void vm_qemu_watch(struct vm *vm);
void vm_qemu_lost(struct vm *vm); /* an earlier shim's QEMU was gone before this one came: its end is unknown */
void vm_tree_emptied(void *arg);
void vm_finish(struct vm *vm);      /* terminal: unlink, tell, leave the loop */
void vm_retry_later(struct vm *vm); /* after retry_ms */
void vm_handle_qmp_event(struct vm *vm, const char *name, const json_t *data);

/* ---- update.c ---- */
void vm_update_adopt(struct vm *vm); /* undoes the change that a dead shim had begun */
void vm_update_monitor_ready(struct vm *vm);
void vm_update_clear(struct vm *vm); /* before its monitor goes */

/* ---- events to watchers, api.c ---- */
void vm_tell(struct vm *vm, enum event_type type, json_t *data_consume, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
int vm_serve(struct vm *vm, struct err *err);
void vm_api_event(struct vm *vm);        /* a new event is in the ring: sends it to whoever monitors */
bool vm_api_unsent(const struct vm *vm); /* somebody hasn't read all of it yet */
void vm_api_clear(struct vm *vm);

/* ---- rotate.c ---- */
void vm_logs_start(struct vm *vm);      /* watches and rotates them; failures become events */
void vm_logs_limits(struct vm *vm);     /* the plan's limits are others now */
void vm_logs_begin_boot(struct vm *vm); /* puts the previous boot's away, in a folder made anew if need be */
void vm_logs_clear(struct vm *vm);

/* ---- console.c ---- */
void vm_console_begin_boot(struct vm *vm); /* a new QEMU has opened its log */
void vm_console_end_boot(struct vm *vm);   /* QEMU is gone; viewers stay */
/* A viewer from an upgraded connection; owns fd and rest. */
void vm_console_attach_take(struct vm *vm, int fd, char *rest, size_t rest_len, uint64_t backlog);
void vm_console_clear(struct vm *vm);
