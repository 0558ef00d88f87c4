/* A plan that begins from a snapshot. Blocks; safe on any thread. */
#pragma once

#include "lib/base/err.h"
#include "proto/plan.h"
#include "proto/wanted.h"

struct manager;

/* Fills in plan->restore, after proving that there is such a snapshot, that it is sound as far as its files' sizes and its index tell,
 * and that the plan's hardware is the snapshot's. -ENOENT "no-snapshot", -EINVAL "damaged", "other-hardware". */
int plan_restore(const struct manager *m, const struct wanted_restore *restore, const char *qemu_version, struct plan *plan,
                 struct err *err);

/* The mode a restore is done in when it is asked for in `mode`: lazy only where HOLDFAST_UFFD in our environment isn't 0. */
int plan_restore_mode(int mode);
