/* The manager: keeps the set of shims equal to the set of wanted VMs, and holds no state that its own death would lose
 * (DESIGN §1, §2, §5). This header is what cmd/holdfastd sees. */
#pragma once

#include "lib/base/dirs.h"
#include "lib/base/err.h"
#include "lib/base/util.h"

struct manager;

struct manager_options {
    const struct dirs *dirs; /* resolved; copied */
    const char *shim_path;   /* absolute */
    const char *group;       /* name of the group whose members may manage; NULL: by the host config */
    const char *sysfs_root;  /* in front of /sys, /proc and /dev/vfio where devices and what the host offers are looked up; NULL: nothing */
    int log_level;           /* enum log_level; -1: by the host config */
};

/* Reads the host config, makes the folders, takes the manager's lock, and enumerates what there is on disk. On failure the text says
 * who holds the lock, which folder can't be written, which key of the config is wrong. */
int manager_new(const struct manager_options *options, struct manager **ret_manager, struct err *err);

/* Adopts, serves, says READY=1, and returns 0 after SIGTERM or SIGINT. No VM is stopped by that. SIGHUP has the host config and the specs
 * looked at again. */
int manager_run(struct manager *m);

/* Waits a moment for what is still being written. */
void manager_free(struct manager *m);
DEFINE_CLEANUP(struct manager *, manager, manager_free)
#define auto_manager auto_cleanup(manager_cleanup)
