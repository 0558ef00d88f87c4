/* A process that can't be mistaken for another: pid + start time + boot id, and a pidfd where one is held.
 * A pid alone is never an identity (pids are reused), see pidfd_open(2), proc_pid_stat(5) field 22. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/base/util.h"

enum { BOOT_ID_LEN = 36 };

struct pidref {
    pid_t pid;           /* 0: none */
    uint64_t start_time; /* clock ticks since boot, from /proc/PID/stat */
    int fd;              /* pidfd, -1 when not held */
};

#define PIDREF_NONE ((struct pidref){ .fd = -1 })

/* Opens a pidfd for a process that is known to live right now (our child, a peer), then reads its start time. -ESRCH. */
int pidref_open(pid_t pid, struct pidref *ret_ref);

/* Opens and proves: the process `pid` of this boot with that start time. -ESRCH when it is gone, or the pid is somebody else's,
 * or it is a zombie (dead for every purpose but its exit status). */
int pidref_open_identity(pid_t pid, uint64_t start_time, struct pidref *ret_ref);

void pidref_done(struct pidref *ref); /* closes the fd, leaves PIDREF_NONE */
#define auto_pidref auto_cleanup(pidref_done)

/* pidfd_send_signal(2): never hits another process. 0, -ESRCH when already gone. */
int pidref_kill(const struct pidref *ref, int sig);

/* 1 exited (also when a zombie), 0 still running, by polling the pidfd. */
int pidref_exited(const struct pidref *ref);

/* The wait(2) status of a process that isn't our child, by PIDFD_GET_INFO (exit codes since Linux 6.15), see ioctl_pidfd(2); needs the
 * pidfd to have been open before the process was reaped. Only after pidref_exited() said 1.
 *
 * Doesn't wait, and never invents a 0:
 * -EBUSY    it still runs
 * -EAGAIN   its parent (init, for most) hasn't reaped it yet: ask again a little later, or once the pidfd polls POLLHUP
 * -ENODATA  the kernel doesn't keep exit codes: unknown */
int pidref_exit_status(const struct pidref *ref, int *ret_wstatus);

/* Start time of a living process. -ESRCH. */
int proc_start_time(pid_t pid, uint64_t *ret_ticks);

/* Whether a living process is stopped (SIGSTOP) and so can't answer anybody. The short stops of one that is traced don't count. */
bool proc_is_stopped(pid_t pid);

/* This boot's id as 36 characters; read once by the caller and compared as text. */
int boot_id_read(char ret_id[BOOT_ID_LEN + 1]);
