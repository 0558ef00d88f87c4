/* Taking a QEMU that Holdfast didn't start under supervision (vmctl shim adopt --pid): started by hand, by a unit of its own or by another
 * manager, with a QMP socket that nobody else uses.
 *
 * What makes it safe is that vm.lock is handed to QEMU itself, by QMP's getfd, which keeps a descriptor under a name until it is told to
 * close it, whoever hangs up (QEMU qapi/misc.json). From then on all is as with a QEMU of ours whose shim has died: the lock is held as long as it
 * lives, so no second one can be started; its record names it by pid, start time and boot; any shim may take it over. That the
 * descriptor is found in that very process also proves that the socket and the pid belong together. */
#pragma once

#include <sys/types.h>

#include "lib/base/err.h"

struct foreign {
    const char *name;
    pid_t pid;
    const char *qmp;                           /* path of its monitor's socket, absolute */
    const char *run_dir, *state_dir, *log_dir; /* the VM's own folders, which are made; that of run_dir mustn't be there */
};

/* Writes what a dead shim would have left, plan.json and status.json, and makes QEMU hold vm.lock. Waits for QEMU, so it's for the time before
 * there is a loop; vm_new_take(adopt) and vm_adopt() follow. On failure nothing of it is left, and QEMU is as it was. The errors are for the
 * operator. */
int foreign_prepare(const struct foreign *f, struct err *err);
