/* What the shim may do, and what little of it its QEMU may (FAULTS.md, S). */
#pragma once

#include <sys/capability.h>

#include "lib/base/err.h"
#include "proto/plan.h"
#include "shim/command.h"

/* The shim keeps the capabilities of a short list, gives up the others for itself and all it will ever start, and can gain none by exec.
 * For the first lines of its main(), once the plan is known. Where it has none (rootless) that is all there is to do. */
int privileges_drop(const struct plan *plan, struct err *err);

enum { QEMU_CAPS_MAX = 8 };

/* What QEMU's child needs to become somebody else, worked out before the fork: names become numbers, memory is allocated. */
struct qemu_privileges {
    const struct plan *plan;
    const struct command *command;
    uint32_t groups[PLAN_GROUPS_MAX];
    size_t n_groups;
    cap_value_t kept[QEMU_CAPS_MAX];
    int n_kept;
    cap_t caps; /* just these */
};
/* Both are borrowed. */
int qemu_privileges_init(struct qemu_privileges *p, const struct plan *plan, const struct command *command);
void qemu_privileges_done(struct qemu_privileges *p);
#define auto_qemu_privileges auto_cleanup(qemu_privileges_done)

/* In QEMU's child, after the go and just before exec; a `prepare` of struct spawn. Opens the command's files, as root where we are, and then
 * becomes QEMU's user for good. Says on stderr what failed and ends the process. */
int qemu_child_prepare(void *qemu_privileges);

/* A `prepare` for everything else we start: what our own protection from the OOM killer isn't meant for. */
int helper_child_prepare(void *unused);
