/* A scope per VM (systemd.scope(5)): holdfast-vm-NAME.scope in holdfast.slice. In it a VM lives through whatever is done to the manager's
 * unit: any KillMode=, systemctl kill, a stop. It is made by StartTransientUnit (org.freedesktop.systemd1(5)) with the limits of the
 * VM's spec, and goes by itself when its last process has.
 *
 * Nothing here waits: the end of a move is told from the loop, at the latest after SCOPE_TIMEOUT_MS. */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

#include "lib/base/err.h"
#include "lib/loop/loop.h"
#include "proto/limits.h"

enum {
    SCOPE_TIMEOUT_MS = 3000,
    SCOPE_PIDS_MAX = 64, /* of one VM: shim, QEMU, and what else is in QEMU's cgroup */
};

struct scopes;
struct scope_move;

struct scopes_config {
    const char *run_dir; /* tells instances of Holdfast on one host apart: those not in the usual place have its hash in the names */
    /* For tests: where "systemd" is, and how to see whether a process is in a unit. NULL: really. */
    const char *address;
    bool (*is_in)(pid_t pid, const char *unit);
};

/* -ENOMEM. Nothing is connected yet. */
int scopes_new(struct loop *l, const struct scopes_config *config, struct scopes **ret_scopes);
void scopes_free(struct scopes *s); /* forgets moves that are under way, without a word */

/* Whether systemd runs this host (sd_booted(3)). If not nobody ends cgroups, and there is nothing to be safe from. */
bool scopes_possible(const struct scopes *s);

/* malloc'ed; NULL: out of memory. */
char *scope_unit(const struct scopes *s, const char *vm);
/* By the kernel's word, /proc/PID/cgroup. */
bool scope_holds(const struct scopes *s, const char *vm, pid_t pid);

struct scope_request {
    const char *vm;
    const pid_t *pids; /* copied; those that are in already are left where they are, below it */
    size_t n_pids;
    const struct limits *limits; /* set when the scope is made; NULL: none */
    /* Once, from the loop. err NULL: all of them that still live are in. */
    void (*done)(void *arg, const struct err *err);
    void *arg;
};
/* -errno and why, when it can't even be asked; `done` isn't called then. */
int scope_move(struct scopes *s, const struct scope_request *what, struct scope_move **ret_move, struct err *err);
/* `done` won't be called. What was asked of systemd may still happen. NULL is fine. */
void scope_move_cancel(struct scope_move *move);
