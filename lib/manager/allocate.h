/* Choosing what a spec leaves to us, such that no other VM has it. The caller holds the lock of what is in `vms`. */
#pragma once

#include "lib/base/err.h"
#include "lib/manager/allocations_file.h"
#include "lib/manager/host_limits.h"
#include "lib/spec/spec.h"

/* Into `given` (the VM's own, which is in `vms` or a copy of what is) goes what is chosen now, and into the spec what is given. Returns whether
 * anything was chosen. -ENOSPC with words, -ENOMEM. */
int allocate_fill(const struct map *vms, const struct holding *self, struct spec *spec, const struct port_range *ports,
                  struct claims *given, struct err *err);

/* Keeps of `given` what `claims` has. Whether anything went. */
bool allocate_prune(struct claims *given, const struct claims *claims);

/* The same ports, addresses, ids once more. -ENOMEM. */
int allocate_copy_given(const struct claims *from, struct claims *ret_to);
