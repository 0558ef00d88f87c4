/* The end of a delete: spec, run folder and records go, in an order that the next manager can finish wherever this one died. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/vm.h"

struct manager;

/* Nothing of the VM lives, and its wish says deleting, on disk. */
void forget_start(struct vm *vm);

/* What a delete that was cut off left: folders renamed to be removed. Blocks; for the writer's thread at start. */
void forget_leftovers(struct manager *m);

struct forget_dirs {
    int run_vms_fd, state_vms_fd, log_fd, specs_fd; /* borrowed */
    const char *state_path, *log_path;              /* of them, for the list of what was kept */
};

/* Removes all records of the VM. Whatever else is in its state folder, and its logs, stay and are named in the array ret_kept, unless purge is
 * given. -EBUSY: something of it lives, or with purge "in-use": a process has one of its disks open, and then nothing was removed. */
int forget_files(const struct forget_dirs *dirs, const char *name, const char *spec_file, bool purge, json_t **ret_kept, struct err *err);

/* Removes the run folder `name` of the directory folders_fd, with both its locks in our hands, so that nothing lives or begins in it meanwhile. 0,
 * also if there is none; -EBUSY: one of the locks is held, and nothing was removed. */
int run_folder_remove(int folders_fd, const char *name);
