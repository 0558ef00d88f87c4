/* What disks made of files leave behind in a VM's state folder: images of an earlier content, and folders in which one was being made when
 * its maker was killed. Both may hold secrets, so they don't stay. */
#pragma once

#include "proto/plan.h"

/* Removes what the plan has no use for, but no image that a QEMU has open or that a snapshot may need. Only while no QEMU of the VM lives.
 * What can't be removed stays for the next start. Blocks. */
void leftovers_remove(int state_fd, const struct plan *plan);
