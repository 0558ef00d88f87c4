/* Starting a shim (proto/launch.h): plan, spawn, wait for its ready, say go, follow it. */
#pragma once

#include "lib/manager/vm.h"

/* Begins; the VM is PRESENCE_GONE. What goes wrong ends in STATE_FAILED with the reason, and in vm_changed(). */
void launch_start(struct vm *vm);

/* Starts a shim that takes over the QEMU of an orphan (PRESENCE_ORPHAN). In vain: the VM stays an orphan, with the reason, and is looked at again
 * later. */
void launch_adopt(struct vm *vm);

/* The VM is wished to be stopped, or the host is drained: one that waits for its image is waited for no more. What is further on ends by itself. */
void launch_call_off(struct vm *vm);

/* Before its shim is begun: what it is launched with, or whether at all, may still change. */
bool launch_is_preparing(const struct vm *vm);
/* Its spec is another now: one that is being planned, or waits for its image, is planned by that. */
void launch_plan_again(struct vm *vm);

/* At the manager's end: hangs up, so that a shim that waits for its go undoes what it did. */
void launch_cancel(struct vm *vm);
