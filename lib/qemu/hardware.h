/* Does a saved device state fit a VM? QEMU would refuse most of what doesn't fit, but in words of its own, and only after it was started. */
#pragma once

#include "lib/base/err.h"
#include "proto/plan.h"
#include "proto/snapshot.h"

/* What the plan's argv makes the guest see; the memory is that of plan->ram. Pure. -EINVAL when the argv has no -machine, -accel, -cpu or
 * -smp, or a -device that isn't one; -ENOMEM. */
int hardware_from_plan(const struct plan *plan, const char *qemu_version, struct hardware *ret);

/* May a device state saved from `of_snapshot` be loaded into `of_plan`? All must be the same but QEMU's version, which may be newer: QEMU
 * keeps a versioned machine type loadable, and says so in docs/devel/migration.rst; within one major.minor any micro will do. -EINVAL with
 * id "other-hardware": one line with the first difference and what to do, to be prefixed with the names. */
int hardware_fits(const struct hardware *of_snapshot, const struct hardware *of_plan, struct err *err);
