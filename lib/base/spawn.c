#include "lib/base/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "lib/base/fd.h"

enum {
    EXIT_ABORTED = 125, /* no go */
    EXIT_NOT_SET_UP = 126,
    EXIT_NOT_EXECUTED = 127,
};

/* Everything from here to child_run() runs between fork and exec: async-signal-safe calls only, see signal-safety(7). */

static void dispositions_reset(void)
{
    struct sigaction action = { .sa_handler = SIG_DFL };
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &action, NULL); /* fails for KILL, STOP and those libc keeps, which is fine */
}

static void mask_reset(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

void signals_reset(void)
{
    dispositions_reset();
    mask_reset();
}

static void complain(const char *s)
{
    if (s && write(STDERR_FILENO, s, strlen(s)) < 0)
        return; /* nobody left to tell */
}

/* One line on the child's stderr. strerrordesc_np() is a table look-up, so safe here. */
static _Noreturn void child_fail(const struct spawn *spawn, const char *what, int code, int status)
{
    complain(spawn->path);
    complain(": ");
    complain(what);
    complain(": ");
    complain(code ? strerrordesc_np(code) : "refused");
    complain("\n");
    _exit(status);
}

/* Moves the fds to their targets. All sources go to high numbers first, so that no dup2() closes a source that is still needed; unnamed
 * stdio becomes /dev/null. *go_fd moves too and stays close-on-exec. */
static int child_place_fds(const struct spawn *spawn, int *go_fd)
{
    int high[SPAWN_FDS_MAX], keep[SPAWN_FDS_MAX + 1];
    int base = 3;
    bool named[3] = { false };
    for (size_t i = 0; i < spawn->n_fds; i++) {
        int target = spawn->fds[i].target;
        if (target >= base)
            base = target + 1;
        if (target < 3)
            named[target] = true;
    }
    for (size_t i = 0; i < spawn->n_fds; i++) {
        high[i] = fcntl(spawn->fds[i].source, F_DUPFD_CLOEXEC, base);
        if (high[i] < 0)
            return -errno;
    }
    if (*go_fd >= 0) {
        *go_fd = fcntl(*go_fd, F_DUPFD_CLOEXEC, base);
        if (*go_fd < 0)
            return -errno;
    }
    for (size_t i = 0; i < spawn->n_fds; i++) {
        keep[i] = spawn->fds[i].target;
        if (dup2(high[i], keep[i]) < 0)
            return -errno;
    }
    for (int target = 0; target < 3; target++) {
        if (named[target])
            continue;
        int null = open("/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC);
        if (null < 0)
            return -errno;
        int r = null == target ? fcntl(null, F_SETFD, 0) : dup2(null, target);
        if (r < 0)
            return -errno;
    }
    keep[spawn->n_fds] = *go_fd;
    return fd_close_others(keep, spawn->n_fds + 1);
}

/* "Persist before exec": a byte lets us go on; end of file says that whoever had to write our pid down is gone. */
static void child_wait_go(int go_fd)
{
    char byte;
    ssize_t n;
    do
        n = read(go_fd, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n != 1)
        _exit(EXIT_ABORTED);
}

static _Noreturn void child_run(const struct spawn *spawn)
{
    int go_fd = spawn->go_fd;
    dispositions_reset();
    int r = child_place_fds(spawn, &go_fd);
    if (r < 0)
        child_fail(spawn, "cannot set up its file descriptors", -r, EXIT_NOT_SET_UP);
    umask(022);
    if (chdir(spawn->cwd ? spawn->cwd : "/") < 0)
        child_fail(spawn, "cannot enter its working folder", errno, EXIT_NOT_SET_UP);
    if (spawn->new_group && setpgid(0, 0) < 0)
        child_fail(spawn, "cannot make its process group", errno, EXIT_NOT_SET_UP);
    if (spawn->new_session && setsid() < 0)
        child_fail(spawn, "cannot make its session", errno, EXIT_NOT_SET_UP);
    mask_reset();
    if (go_fd >= 0)
        child_wait_go(go_fd);
    if (spawn->prepare) {
        errno = 0;
        r = spawn->prepare(spawn->prepare_arg);
        if (r != 0)
            child_fail(spawn, "cannot be prepared", r < 0 ? -r : errno, EXIT_NOT_SET_UP);
    }
    static char *const no_env[] = { NULL };
    execve(spawn->path, spawn->argv, spawn->env ? spawn->env : no_env);
    child_fail(spawn, "cannot be executed", errno, EXIT_NOT_EXECUTED);
}

static int check(const struct spawn *spawn)
{
    if (!spawn->path || !spawn->argv || !spawn->argv[0] || spawn->n_fds > SPAWN_FDS_MAX)
        return -EINVAL;
    for (size_t i = 0; i < spawn->n_fds; i++) {
        if (fcntl(spawn->fds[i].source, F_GETFD) < 0)
            return -EBADF;
        if (spawn->fds[i].target < 0)
            return -EINVAL;
        for (size_t j = 0; j < i; j++)
            if (spawn->fds[j].target == spawn->fds[i].target)
                return -EINVAL;
    }
    return 0;
}

/* fork(2) with all signals blocked, so that no handler of ours ever runs in the child; the parent's mask is put back. */
static pid_t fork_blocked(int cgroup_fd)
{
    struct clone_args into = { .flags = CLONE_INTO_CGROUP, .exit_signal = SIGCHLD, .cgroup = (uint64_t)cgroup_fd };
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    /* libc has no clone3(); its fork() does no more than this but for handlers and its own locks, which the child doesn't need. */
    pid_t pid = cgroup_fd > 0 ? (pid_t)syscall(SYS_clone3, &into, sizeof(into)) : fork();
    if (pid != 0) {
        int saved = errno;
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        errno = saved;
    }
    return pid;
}

int spawn_child(const struct spawn *spawn, pid_t *ret_pid)
{
    int r = check(spawn);
    if (r < 0)
        return r;
    pid_t pid = fork_blocked(spawn->cgroup_fd);
    if (pid < 0)
        return -errno;
    if (pid == 0)
        child_run(spawn);
    /* Done on both sides: whoever comes first, the group is there for both. Fails only when the child was first and has exec'd. */
    if (spawn->new_group)
        setpgid(pid, pid);
    *ret_pid = pid;
    return 0;
}

/* Until the intermediate process is gone we are its child, not init's. Its pidfd becomes readable after its children found their new
 * parent; should it be gone already, getppid() says so. */
static void wait_for_new_parent(pid_t intermediate)
{
    while (getppid() == intermediate) {
        int fd = pidfd_open(intermediate, 0);
        if (fd < 0 || getppid() != intermediate)
            return; /* what was opened may be a later process of that pid; exec or _exit closes it */
        struct pollfd pollfd = { .fd = fd, .events = POLLIN };
        poll(&pollfd, 1, -1);
        close(fd);
    }
}

static _Noreturn void intermediate_run(const struct spawn *spawn, int report_fd)
{
    int code = setsid() < 0 ? errno : 0;
    pid_t self = getpid();
    pid_t pid = code ? -1 : fork();
    if (pid == 0) {
        close(report_fd);
        wait_for_new_parent(self);
        child_run(spawn);
    }
    if (pid < 0 && !code)
        code = errno;
    ssize_t n = write(report_fd, &code, sizeof(code));
    _exit(n == sizeof(code) ? 0 : 1);
}

int spawn_detached(const struct spawn *spawn)
{
    int r = check(spawn);
    if (r < 0)
        return r;
    int pipe_fds[2];
    if (pipe2(pipe_fds, O_CLOEXEC) < 0)
        return -errno;
    auto_fd int report_read = pipe_fds[0], report_write = pipe_fds[1];
    pid_t pid = fork_blocked(0);
    if (pid < 0)
        return -errno;
    if (pid == 0)
        intermediate_run(spawn, report_write);
    fd_close(steal_fd(&report_write));
    int code;
    ssize_t n;
    do
        n = read(report_read, &code, sizeof(code));
    while (n < 0 && errno == EINTR);
    /* The result came by the pipe, since with SIGCHLD ignored the kernel reaps and there is no status to be had: ECHILD. */
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (n != sizeof(code))
        return -EIO;
    return -code;
}
