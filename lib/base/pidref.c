#include "lib/base/pidref.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/parse.h"

/* linux/pidfd.h of 6.15; the headers of older distributions lack it. See ioctl_pidfd(2). */
struct pidfd_info_v0 {
    uint64_t mask;
    uint64_t cgroupid;
    uint32_t pid, tgid, ppid;
    uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
    int32_t exit_code;
};
static_assert(sizeof(struct pidfd_info_v0) == 64, "the kernel's PIDFD_INFO_SIZE_VER0");
#define PIDFD_GET_INFO_V0 _IOWR(0xFF, 11, struct pidfd_info_v0)
#define PIDFD_INFO_EXIT_BIT (UINT64_C(1) << 3)

struct proc_stat {
    char state;
    uint64_t start_time; /* field 22 */
    uint64_t exit_code;  /* field 52, 0 also when we may not know: PTRACE_MODE_READ_FSCREDS */
};

/* Numbers of the fields in proc_pid_stat(5), where 1 is the pid. */
enum { STAT_STATE = 3, STAT_START_TIME = 22, STAT_EXIT_CODE = 52 };

static int take_field(char *text, int number, struct proc_stat *stat)
{
    switch (number) {
    case STAT_STATE:
        stat->state = text[0];
        return 0;
    case STAT_START_TIME:
        return parse_u64(text, 0, UINT64_MAX, &stat->start_time);
    case STAT_EXIT_CODE:
        return parse_u64(text, 0, UINT16_MAX, &stat->exit_code);
    default:
        return 0;
    }
}

static int proc_stat_read(pid_t pid, struct proc_stat *ret_stat)
{
    if (pid <= 0)
        return -ESRCH;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    auto_free char *text = NULL;
    size_t len = 0;
    int r = file_read(AT_FDCWD, path, 16 * 1024, &text, &len);
    if (r == -ENOENT)
        return -ESRCH;
    if (r < 0)
        return r;
    /* The name in parentheses may itself hold blanks and parentheses; after the last one there are only plain fields. */
    char *p = strrchr(text, ')');
    if (!p)
        return -EBADMSG;
    p++;
    struct proc_stat stat = { 0 };
    int number = STAT_STATE;
    for (char *field = strsep(&p, " \n"); field; field = strsep(&p, " \n")) {
        if (!*field)
            continue;
        if (take_field(field, number++, &stat) < 0)
            return -EBADMSG;
    }
    if (number <= STAT_EXIT_CODE)
        return -EBADMSG;
    *ret_stat = stat;
    return 0;
}

static bool is_dead(const struct proc_stat *stat) { return stat->state == 'Z' || stat->state == 'X'; }

int proc_start_time(pid_t pid, uint64_t *ret_ticks)
{
    struct proc_stat stat = { 0 };
    int r = proc_stat_read(pid, &stat);
    if (r < 0)
        return r;
    if (is_dead(&stat))
        return -ESRCH;
    *ret_ticks = stat.start_time;
    return 0;
}

bool proc_is_stopped(pid_t pid)
{
    struct proc_stat stat = { 0 };

    return proc_stat_read(pid, &stat) >= 0 && stat.state == 'T';
}

/* A pidfd and what /proc says of the same process. */
static int open_with_stat(pid_t pid, struct pidref *ret_ref, struct proc_stat *ret_stat)
{
    if (pid <= 0)
        return -ESRCH;
    auto_fd int fd = pidfd_open(pid, 0);
    if (fd < 0)
        return errno == EINVAL ? -ESRCH : -errno; /* EINVAL: a thread, which is no process */
    struct proc_stat stat;
    int r = proc_stat_read(pid, &stat);
    if (r < 0)
        return r;
    /* As long as the process isn't reaped its pid can't be another's: so what was read was its own. */
    if (pidfd_send_signal(fd, 0, NULL, 0) < 0 && errno != EPERM)
        return -errno;
    *ret_ref = (struct pidref){ .pid = pid, .start_time = stat.start_time, .fd = steal_fd(&fd) };
    *ret_stat = stat;
    return 0;
}

int pidref_open(pid_t pid, struct pidref *ret_ref)
{
    struct proc_stat stat;
    return open_with_stat(pid, ret_ref, &stat);
}

int pidref_open_identity(pid_t pid, uint64_t start_time, struct pidref *ret_ref)
{
    auto_pidref struct pidref ref = PIDREF_NONE;
    struct proc_stat stat = { 0 };
    int r = open_with_stat(pid, &ref, &stat);
    if (r < 0)
        return r;
    if (ref.start_time != start_time || is_dead(&stat))
        return -ESRCH;
    *ret_ref = ref;
    ref = PIDREF_NONE;
    return 0;
}

void pidref_done(struct pidref *ref)
{
    fd_close(ref->fd);
    *ref = PIDREF_NONE;
}

int pidref_kill(const struct pidref *ref, int sig) { return pidfd_send_signal(ref->fd, sig, NULL, 0) < 0 ? -errno : 0; }

int pidref_exited(const struct pidref *ref)
{
    if (ref->fd < 0)
        return -EBADF; /* poll(2) would wait for ever on it, and say "still running" */
    struct pollfd pollfd = { .fd = ref->fd, .events = POLLIN };
    int n;
    do
        n = poll(&pollfd, 1, 0);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    if (pollfd.revents & POLLNVAL)
        return -EBADF;
    return n > 0;
}

/* What /proc tells of a zombie. Its 0 may also mean that we aren't allowed to know. */
static int zombie_status(const struct pidref *ref, int *ret_wstatus)
{
    struct proc_stat stat = { 0 };
    int r = proc_stat_read(ref->pid, &stat);
    if (r < 0)
        return r;
    if (stat.start_time != ref->start_time || !is_dead(&stat) || stat.exit_code == 0)
        return -EAGAIN;
    *ret_wstatus = (int)stat.exit_code;
    return 0;
}

/* 1 and the status, 0 not told although the kernel knows the question, -errno. */
static int ask_exit_code(const struct pidref *ref, int *ret_wstatus)
{
    struct pidfd_info_v0 info = { .mask = PIDFD_INFO_EXIT_BIT };
    if (ioctl(ref->fd, PIDFD_GET_INFO_V0, &info) < 0)
        /* ESRCH: reaped, on a kernel that then forgets; the others: before 6.13, where the ioctl is unknown. */
        return errno == ESRCH || errno == ENOTTY || errno == EINVAL || errno == EOPNOTSUPP ? -ENODATA : -errno;
    if (!(info.mask & PIDFD_INFO_EXIT_BIT))
        return 0;
    *ret_wstatus = info.exit_code;
    return 1;
}

int pidref_exit_status(const struct pidref *ref, int *ret_wstatus)
{
    int r = pidref_exited(ref);
    if (r < 0)
        return r;
    if (r == 0)
        return -EBUSY;
    r = ask_exit_code(ref, ret_wstatus);
    if (r == 0 || r == -ENODATA) {
        if (zombie_status(ref, ret_wstatus) >= 0)
            return 0;
    }
    if (r < 0)
        return r;
    return r == 0 ? -EAGAIN : 0;
}

int boot_id_read(char ret_id[BOOT_ID_LEN + 1])
{
    auto_free char *text = NULL;
    size_t len = 0;
    int r = file_read(AT_FDCWD, "/proc/sys/kernel/random/boot_id", 64, &text, &len);
    if (r < 0)
        return r;
    if (len < BOOT_ID_LEN || (text[BOOT_ID_LEN] != '\n' && text[BOOT_ID_LEN] != '\0'))
        return -EBADMSG;
    memcpy(ret_id, text, BOOT_ID_LEN);
    ret_id[BOOT_ID_LEN] = '\0';
    return 0;
}
