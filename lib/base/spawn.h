/* Children made clean: default signal dispositions, empty mask, given environment and working folder, umask 022, exactly the
 * fds named, whatever whoever started us had done to ours (FAULTS.md, F and K). */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/base/err.h"

enum { SPAWN_FDS_MAX = 16 };

struct spawn_fd {
    int source; /* an open fd of ours */
    int target; /* its number in the child; 0, 1, 2 name stdio, unnamed stdio is /dev/null */
};

struct spawn {
    const char *path;  /* executed as it is, no PATH search */
    char *const *argv; /* NULL-ended */
    char *const *env;  /* NULL-ended; NULL: empty environment */
    const char *cwd;   /* NULL: "/" */
    const struct spawn_fd *fds;
    size_t n_fds;   /* at most SPAWN_FDS_MAX; all other fds are closed */
    int go_fd;      /* read end of a pipe the child blocks on before exec, or -1. One byte means go; EOF means abort
                              * (exit 125 without exec): "persist before exec" */
    bool new_group; /* setpgid(0, 0) */
    /* setsid(2), for a child that is to outlive us: of a mere group that is stopped (SIGSTOP) when we die, and has no other link out of
     * its session, the kernel hangs up every member (setpgid(2), orphaned process group). Makes a group as well, once the child runs. */
    bool new_session;
    /* A folder of cgroup v2 to be born in, 0: ours. Not for spawn_detached(). Fails where clone3(2) can't CLONE_INTO_CGROUP; but
     * moving a living process there costs an RCU grace period, 5 to 20 ms. */
    int cgroup_fd;
    int (*prepare)(
        void *arg); /* runs in the child just before exec; async-signal-safe calls only; nonzero aborts (exit 126). May be NULL */
    void *prepare_arg;
};

/* Forks the child. *ret_pid is the caller's to reap. An exec that fails exits 127, a step before it that fails 126, each after one line on
 * the child's stderr. -EINVAL: no path or argv, too many fds, a target that is negative or named twice. */
int spawn_child(const struct spawn *spawn, pid_t *ret_pid);

/* Double fork with setsid between: the process that execs is a child of init (or of the nearest subreaper) from its first
 * instruction. Waits only for the intermediate child, which forks and exits at once, and reaps it. Returns also the second fork's
 * failure; -EIO when the intermediate child was killed. go_fd as above. */
int spawn_detached(const struct spawn *spawn);

/* Runs a command to its end and captures both outputs (each at most `limit` bytes, what is beyond is read and dropped). Blocks up to
 * `timeout_ms` (negative: no limit), then SIGKILLs the group and returns -ETIMEDOUT. The child leads a group of its own. Ends with the
 * child, even if something it left behind holds its stdout. -EINVAL when `spawn` names stdout or stderr; -ECHILD when SIGCHLD is ignored, so
 * call signals_reset() first. For start-up work and command-line tools, never in a loop. */
struct spawn_output {
    int wstatus;
    char *out; /* NUL-ended, malloc'ed */
    char *err;
};
int spawn_capture(const struct spawn *spawn, int timeout_ms, size_t limit, struct spawn_output *ret_output);
void spawn_output_done(struct spawn_output *o);

/* Signals back to default, mask empty: what spawn_child() does first in the child, for main()s that want it at their own start. */
void signals_reset(void);
