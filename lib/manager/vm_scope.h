/* When a VM's shim and QEMU are moved into its scope (scope.h): before a new shim is told to go, and, should they be found elsewhere, when the
 * manager has found the VM. What can't be done is said in the log, and the VM runs on where it is. */
#pragma once

#include "lib/manager/vm.h"
#include "proto/limits.h"

/* A shim that waits for its go, pid 0: not known. `done` comes at once or from the loop, whatever the outcome: a VM in no scope is better
 * than none. `limits` may be NULL. */
void vm_scope_launch(struct vm *vm, pid_t shim, const struct limits *limits, void (*done)(struct vm *vm));
/* The launch is called off: `done` won't be called. */
void vm_scope_cancel(struct vm *vm);

/* A shim has told its status: if it or its QEMU isn't in the VM's scope, as those that a manager before us started without one, they
 * are moved, with all that is in QEMU's own cgroup. Once for each shim. */
void vm_scope_check(struct vm *vm);
