/* What a VM left on disk, read when nobody is there to be asked. No state, no loop: safe on any thread. */
#pragma once

#include <stdbool.h>

#include "proto/exit.h"
#include "proto/status.h"
#include "proto/wanted.h"

struct record_dirs {
    int run_vms_fd, state_vms_fd; /* borrowed */
};

struct records {
    bool has_status, has_exit;
    struct status status;
    struct exit_record exit;
    bool unclear; /* one of them doesn't parse (then it was set aside) or doesn't fit; `why` says which and what */
    char *why;
};

/* Reads status.json and last-exit.json of the VM. -ENOMEM, else 0. */
int records_read(const struct record_dirs *dirs, const char *name, struct records *ret_records);
void records_clear(struct records *r);

/* status.json alone; -ENOENT, or what was wrong with it. Nothing is set aside. */
int records_read_status(const struct record_dirs *dirs, const char *name, struct status *ret_status);

/* 1 and the record; 0: there is none; -EINVAL: it doesn't parse and was set aside, *ret_why (malloc'ed) says so; other -errno: can't be read. */
int records_read_wanted(const struct record_dirs *dirs, const char *name, struct wanted *ret_wanted, char **ret_why);

/* Whether the kernel has anything left of the VM: one of its locks, or the very process that its status names as QEMU. That may outlive the lock: a
 * process being torn down, which may take hours where its memory was encrypted, has closed its files already. What can't be told counts as living. */
bool records_vm_may_live(const struct record_dirs *dirs, const char *name);
/* The last of these alone, for a status of `boot_id`'s boot. */
bool records_qemu_lives(const struct status *status, const char *boot_id);

/* Writes last-exit.json durably. -errno. */
int records_write_exit(const struct record_dirs *dirs, const char *name, const struct exit_record *exit);

/* The VM's folder in the state folder: opened, made when missing. The fd, or -errno. */
int records_state_dir(const struct record_dirs *dirs, const char *name);
