/* Which VMs run or are to run, told to the allocations; and those that wait for another to let go of something. On the loop. */
#pragma once

#include "lib/manager/vm.h"

struct manager;

/* All VMs there are have been found. */
void hold_begin(struct manager *m);
/* The VM's wish or presence may have changed. */
void hold_note(struct vm *vm);
/* Something is free: VMs that were refused for what others had try once more. */
void hold_freed(struct manager *m);
