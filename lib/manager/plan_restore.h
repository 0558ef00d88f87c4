/* A plan that begins from a snapshot. Blocks; safe on any thread. */
#pragma once

#include "lib/base/err.h"
#include "proto/plan.h"
#include "proto/wanted.h"

struct manager;
struct qemu_capabilities;

/* Fills in plan->restore, after proving that there is such a snapshot, that it is sound as far as its files' sizes and its index tell,
 * and that the plan's hardware is the snapshot's. `prefetch` as in the host config. -ENOENT "no-snapshot", -EINVAL "damaged", "other-hardware". */
int plan_restore(const struct manager *m, const struct wanted_restore *restore, bool prefetch, const char *qemu_version, struct plan *plan,
                 struct err *err);

/* Makes the machine that a plan is resolved for the snapshot's, where this QEMU still can be that: a newer QEMU's own default is another
 * machine, which an older device state doesn't fit. */
int plan_restore_machine(const struct manager *m, const struct wanted_restore *restore, struct qemu_capabilities *capabilities);

/* The mode a restore is done in when it is asked for in `mode`: lazy only where HOLDFAST_UFFD in our environment isn't 0. */
int plan_restore_mode(int mode);
