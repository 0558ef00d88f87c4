/* One VM as the manager knows it. A thousand of them share a few MiB, so nothing that can be read again is kept: no spec,
 * no plan, no JSON. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/pidref.h"
#include "lib/loop/loop.h"
#include "lib/loop/pidwatch.h"
#include "proto/exit.h"
#include "proto/states.h"
#include "proto/wanted.h"

struct manager;
struct edit_pull;
struct gpu_move;
struct launch;
struct vm_scope;
struct varlink_peer;
struct waiter;

/* Who is there, by the two locks and the connection. */
enum presence {
    PRESENCE_GONE,     /* both locks free, and the end of the last incarnation is on record */
    PRESENCE_CHECKING, /* both locks free, the records are being read */
    PRESENCE_SHIM,     /* a shim: connected, or its lock is held */
    PRESENCE_ORPHAN,   /* vm.lock is held and shim.lock isn't: QEMU with nobody */
};

/* What the VM's one timer is for. The uses exclude each other. */
enum vm_timer {
    TIMER_NONE,
    TIMER_ANSWER,   /* the shim has been asked and should have answered */
    TIMER_SETTLE,   /* the connection ended and the shim's process has not */
    TIMER_CONNECT,  /* connect again */
    TIMER_LOOK,     /* look at the locks again */
    TIMER_PROBE,    /* connected, unresponsive, and the question whether it is back could not be put: once more */
    TIMER_RELAUNCH, /* back-off before the next launch */
};

struct vm {
    struct manager *manager;
    char *name;
    unsigned refs;

    /* The wish, as in wanted.json. */
    struct wanted wanted;
    uint32_t write_issued, write_done, write_ok; /* numbers of the last write of wanted.json begun, finished, succeeded */
    bool has_run_folder;                         /* there was one at the start */
    bool has_wanted;                             /* the wish is somebody's, not a default */
    bool unsaved;                                /* the wish in memory is not the one on disk, and the write of it failed */

    /* The spec. */
    bool has_spec, enabled, check_due;
    bool enabled_known;      /* `enabled` is of a file that could be read */
    bool contested;          /* what is wrong with it is what another VM has */
    bool edit_due;           /* what an edit of it means is to be found out */
    bool gone_seen;          /* it was seen to be deleted */
    uint8_t gone;            /* enum spec_gone */
    uint64_t gone_until_us;  /* GONE_GRACE: CLOCK_BOOTTIME of the stop */
    uint64_t restart_turn;   /* its place among those that wait for a restart for their edited spec, 0: it doesn't */
    char spec_digest[17];    /* json_digest() of the file, "": not known */
    char applied_digest[17]; /* the same of the newest that a command has written */
    uint8_t restart_why;     /* enum rollout_why, of that */
    char *restart_refused;   /* why it could not be started again then, NULL: nothing is known against it */
    uint64_t restart_retry;  /* CLOCK_MONOTONIC in us of the next look at that */
    uint8_t image_update;    /* enum image_update, as its spec says */
    char *image;             /* the image whose newest release it is to run with, NULL: none, or a fixed one */
    char *spec_second;       /* another file that has it too, NULL: none; while both are there neither counts */
    uint8_t policy;          /* enum restart_policy */
    char *spec_file;         /* its name, NULL: NAME.json */
    char *spec_error;        /* what is wrong with it, NULL: nothing */
    char next_digest[17];    /* of the plan a start would use now, "": not known */

    /* What is. */
    uint8_t presence;               /* enum presence */
    uint8_t view;                   /* enum vm_view */
    uint8_t health;                 /* enum vm_health */
    bool answered;                  /* the shim has told its status on this connection */
    bool unclear;                   /* a record doesn't parse or doesn't fit: started again by an explicit start alone */
    bool adopting;                  /* counted in manager->adopting */
    bool probing;                   /* a GetStatus without deadline is out to an unresponsive shim */
    bool forgetting, delete_failed; /* the files of a deleted VM are being removed; that failed */
    bool gone_from_registry;
    uint64_t incarnation; /* highest known */
    uint64_t restarts;
    uint64_t started_us; /* CLOCK_BOOTTIME, 0: not running */
    uint64_t event_seq;  /* newest event seen */
    pid_t shim_pid, qemu_pid;
    char plan_digest[17]; /* of the plan that runs */
    char *reason;
    char *launch_error; /* why the last launch came to nothing */
    struct exit_record *last_exit;

    /* What is going on. */
    struct varlink_peer *peer;
    pid_t peer_pid;        /* of its other end, by SO_PEERCRED */
    struct pidref process; /* the shim, or the QEMU of an orphan */
    struct pidwatch watch;
    ev_timer timer;
    uint8_t timer_use;        /* enum vm_timer */
    uint8_t connects;         /* attempts in vain in a row */
    uint32_t launch_failures; /* how many launches have failed, for those who wait for one */
    uint8_t adoptions;        /* in vain in a row */
    uint8_t failures;         /* launches and unexplained deaths in a row */
    bool refused;             /* the last launch was: somebody else has what it needs, or there is no room */
    bool blocked;             /* so until another VM lets go of something */
    bool gave_up;             /* no further launch until somebody asks */
    bool from_next;           /* the wish is for the next incarnation, whatever number the records being read will give it */
    bool live_due;            /* a change that needs no restart waits until the shim can be told (live.h) */
    uint32_t snapshots;       /* of it that its shim is taking, as far as this manager asked for them */
    bool stop_due;            /* somebody asked for a stop that has not been sent */
    uint64_t stop_sent;       /* incarnation a stop was sent to */
    struct launch *launch;
    struct edit_pull *edit_pull;
    struct gpu_move *gpu_move; /* its PCI devices are on their way to or from it */
    struct vm_scope *scope;    /* on the way into its scope */
    pid_t scope_checked;       /* the shim of which that was seen to */
    char *scope_error;         /* why it is in none, NULL: it is, or there is nothing to be safe from */
    struct waiter *waiters;
    struct deferred settle;
};

int vm_new(struct manager *m, const char *name, struct vm **ret_vm);
struct vm *vm_ref(struct vm *vm);
void vm_unref(struct vm *vm);

/* Sets view and reason, and logs the edge. The reason may be NULL. */
void vm_set_view(struct vm *vm, enum vm_view view, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The view of a VM of which nothing lives: stopped, exited or failed, by the wish and the last exit (pure). */
enum vm_view vm_rest_view(const struct vm *vm);

/* Whether the last exit is of the highest known incarnation. */
bool vm_exit_known(const struct vm *vm);

/* Replaces the last exit; takes what the record holds. */
int vm_set_exit_take(struct vm *vm, struct exit_record *exit);

/* The VM object of io.holdfast.Manager. NULL: out of memory. */
json_t *vm_to_wire(const struct vm *vm);

/* A JSON string of any text: bytes that aren't UTF-8 become '?'. NULL: out of memory, or `s` is NULL. */
json_t *json_text(const char *s);

void vm_timer_start(struct vm *vm, enum vm_timer use, uint64_t ms);
void vm_timer_stop(struct vm *vm);

/* Whether the VM is an orphan that no shim could take over for now: nothing can be done with it but kill it. */
bool vm_is_lost(const struct vm *vm);

/* Has waiting calls looked at now and the VM reconciled at the end of this iteration of the loop. */
void vm_changed(struct vm *vm);

/* "NAME/FILE" below one of the vms folders. */
enum { VM_PATH_MAX = NAME_MAX_LEN + 64 };
const char *vm_path(const struct vm *vm, const char *file, char buf[VM_PATH_MAX]);
const char *name_path(const char *name, const char *file, char buf[VM_PATH_MAX]);
