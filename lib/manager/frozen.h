/* Files that snapshots consist of are never written again. Blocks; safe on any thread. */
#pragma once

#include "lib/base/err.h"
#include "proto/plan.h"

struct manager;

/* A VM whose disks have layers writes to those. One that has none yet, or none any more, must not write to a file that became a snapshot's
 * in the meantime: -EBUSY "frozen". */
int frozen_check(const struct manager *m, const struct plan *plan, struct err *err);
