/* The line to a VM's shim: connect, prove who answers, follow its events; and, when the line ends, find out by the two locks what is
 * left. Nothing here waits, and nothing here kills. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/vm.h"

/* Connects and asks for status and events. What can't be reached is looked at by its locks. */
void link_open(struct vm *vm);
/* Ends the line; what is known stays. */
void link_close(struct vm *vm);
/* One of the VM's timers that are about the line. */
void link_timer(struct vm *vm, enum vm_timer use);

/* Looks at the two locks and goes on from there: connect, orphan, or gone (down.h). */
void link_look(struct vm *vm);

/* A call to the shim got no answer in time: shown, and asked once more without deadline, so that the answer is noticed when it comes. */
void link_unanswered(struct vm *vm);

/* Whoever looks at a VM is not told what a shim said before it was stopped: one that is counts as unanswered, at once. (An idle shim is never
 * asked just to see whether it lives; its process tells.) */
void link_check_stopped(struct vm *vm);

/* A Status of io.holdfast.Shim into the VM. */
void link_take_status(struct vm *vm, const json_t *status);
