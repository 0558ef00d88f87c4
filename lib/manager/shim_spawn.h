/* Running the shim's program as proto/launch.h says, as a child of init. */
#pragma once

struct manager;

struct shim_spawn {
    const char *name;
    int plan_fd;       /* a memfd of its plan; -1: it adopts the QEMU that runs for the VM `name` */
    int sync_fd;       /* its end of the socket it says ready on */
    int log_folder_fd; /* where its log is; negative: it has none rather than that it isn't started */
};

/* -errno. The fds stay the caller's. */
int shim_spawn(struct manager *m, const struct shim_spawn *what);
