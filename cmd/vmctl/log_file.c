#include "cmd/vmctl/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "lib/base/fd.h"

enum { BLOCK = 64 * 1024 };

int log_file_open(struct log_file *log, int dirfd, const char *name)
{
    *log = (struct log_file){ .dirfd = dirfd, .name = name, .fd = -1 };
    log->fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return log->fd < 0 ? -errno : 0;
}

void log_file_close(struct log_file *log) { log->fd = fd_close(log->fd); }

int log_file_seek_lines(struct log_file *log, uint64_t lines)
{
    char block[4096];
    struct stat st;

    if (fstat(log->fd, &st) < 0)
        return -errno;
    off_t pos = st.st_size;
    uint64_t seen = 0;
    while (pos > 0 && lines > 0) {
        off_t from = pos > (off_t)sizeof(block) ? pos - (off_t)sizeof(block) : 0;
        ssize_t n = pread(log->fd, block, (size_t)(pos - from), from);
        if (n < 0)
            return -errno;
        for (ssize_t i = n; i > 0; i--) {
            /* The newline that ends the file begins no line. */
            if (block[i - 1] == '\n' && from + i != st.st_size && ++seen == lines) {
                log->offset = from + i;
                return 0;
            }
        }
        pos = from;
    }
    log->offset = lines ? 0 : st.st_size;
    return 0;
}

static int copy_rest(struct log_file *log, int out_fd)
{
    char block[BLOCK];
    struct stat st;

    if (log->fd < 0)
        return 0;
    /* Shorter than what we have read: begun anew in place. */
    if (fstat(log->fd, &st) == 0 && st.st_size < log->offset)
        log->offset = 0;
    for (;;) {
        ssize_t n = pread(log->fd, block, sizeof(block), log->offset);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return 0;
        if (n > 0) {
            int r = fd_write_all(out_fd, block, (size_t)n);
            if (r < 0)
                return r;
            log->offset += n;
        }
    }
}

int log_file_copy(struct log_file *log, int out_fd)
{
    struct stat named, open;

    int r = copy_rest(log, out_fd);
    if (r < 0)
        return r;
    if (fstatat(log->dirfd, log->name, &named, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(named.st_mode))
        return 0;
    if (log->fd >= 0 && fstat(log->fd, &open) == 0 && open.st_ino == named.st_ino && open.st_dev == named.st_dev)
        return 0;
    /* Another file has the name now. What was still written to the old one between our last read and its renaming comes first. */
    r = copy_rest(log, out_fd);
    if (r < 0)
        return r;
    log_file_close(log);
    log->offset = 0;
    log->fd = openat(log->dirfd, log->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return log->fd < 0 ? 0 : copy_rest(log, out_fd);
}

/* What happened is seen in the folder itself; the events only wake us. */
static void drop_events(int inotify)
{
    char buf[4096] __attribute__((aligned(__alignof__(struct inotify_event))));

    while (read(inotify, buf, sizeof(buf)) > 0)
        ;
}

/* Removed, though our own fd still keeps it (so IN_DELETE_SELF never comes). */
static bool folder_gone(int dirfd)
{
    struct stat st;

    return fstat(dirfd, &st) < 0 || st.st_nlink == 0;
}

int log_file_follow(struct log_file *log, int out_fd)
{
    static const uint32_t wanted = IN_MODIFY | IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF;
    auto_fd int inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    char folder[32];

    if (inotify < 0)
        return -errno;
    /* The folder we hold, whatever has its name now. */
    snprintf(folder, sizeof(folder), "/proc/self/fd/%d", log->dirfd);
    if (inotify_add_watch(inotify, folder, wanted) < 0)
        return -errno;
    for (;;) {
        /* After the watch was set, so that nothing falls between. */
        int r = log_file_copy(log, out_fd);
        if (r < 0)
            return r;
        struct pollfd fds[] = { { .fd = inotify, .events = POLLIN }, { .fd = out_fd } };
        if (poll(fds, 2, -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL))
            return -EPIPE;
        drop_events(inotify);
        if (folder_gone(log->dirfd)) {
            r = log_file_copy(log, out_fd);
            return r < 0 ? r : -ENOENT;
        }
    }
}
