/* The plan's own disks before a boot: those that are fresh at each start make room for the next, those that are too small are listed to be
 * grown, and what is left over of disks made from files is removed. A restore skips all of it: its disks are the snapshot's.
 *
 * Nothing is changed unless nothing is refused, and each change can be the last: a fresh disk that is gone is made by the plan's step, and
 * a disk that is still small is found to be so again. */
#pragma once

#include <stddef.h>

struct vm;
struct plan_step;

/* Where there are images of ours, on a thread, since their files may be on a slow server. Then the plan's steps are run, or the launch has
 * failed: either may have come about when this returns. */
void own_disks_prepare(struct vm *vm);

/* What is to be run before the plan's own steps. */
const struct plan_step *own_disks_steps(const struct vm *vm, size_t *ret_n);

/* Waits for the thread, which is told to hurry. Fine when there is nothing. */
void own_disks_end(struct vm *vm);
