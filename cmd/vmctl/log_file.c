#include "cmd/vmctl/log_file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/stat.h>

#include "cmd/vmctl/output.h"
#include "lib/base/fd.h"

enum { BLOCK = 64 * 1024 };

static int open_reader(struct log_file *log)
{
    uint64_t end;
    int r = log_reader_open(&log->reader, log->dirfd, log->name);

    log->position = 0;
    return r < 0 ? r : log_reader_range(&log->reader, &log->position, &end);
}

int log_file_open(struct log_file *log, int dirfd, const char *name)
{
    *log = (struct log_file){ .dirfd = dirfd, .name = name };
    return open_reader(log);
}

void log_file_close(struct log_file *log) { log_reader_close(&log->reader); }

/* All of [from, from + len), which is there. */
static int read_all(struct log_file *log, uint64_t from, char *block, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = log_reader_read(&log->reader, from + done, block + done, len - done);
        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        done += (size_t)n;
    }
    return 0;
}

int log_file_seek_lines(struct log_file *log, uint64_t lines)
{
    char block[16 * 1024];
    uint64_t start, end, seen = 0;

    int r = log_reader_range(&log->reader, &start, &end);
    if (r < 0)
        return r;
    for (uint64_t pos = end; pos > start && lines > 0;) {
        uint64_t from = pos - start > sizeof(block) ? pos - sizeof(block) : start;
        r = read_all(log, from, block, (size_t)(pos - from));
        if (r == -ERANGE) /* the oldest piece was removed meanwhile */
            break;
        if (r < 0)
            return r;
        for (uint64_t i = pos - from; i > 0; i--) {
            /* The newline that ends the log begins no line. */
            if (block[i - 1] == '\n' && from + i != end && ++seen == lines) {
                log->position = from + i;
                return 0;
            }
        }
        pos = from;
    }
    log->position = lines ? start : end;
    return 0;
}

static int skip_lost(struct log_file *log)
{
    uint64_t start, end;

    int r = log_reader_range(&log->reader, &start, &end);
    if (r < 0)
        return r;
    uint64_t next = log->position > end ? end : log_reader_next(&log->reader, log->position);
    if (next == log->position)
        return -EIO;
    complain("%s: a part is missing here: it was rotated away faster than it was read, or removed", log->name);
    log->position = next;
    return 0;
}

/* Shorter than what we have read, which no rotation does: somebody truncated it. */
static bool begun_anew(struct log_file *log)
{
    uint64_t start, end;

    if (log_reader_range(&log->reader, &start, &end) < 0 || end >= log->position)
        return false;
    log->position = log->reader.joint;
    return true;
}

static int copy_rest(struct log_file *log, int out_fd)
{
    char block[BLOCK];

    while (log->reader.fd >= 0) {
        ssize_t n = log_reader_read(&log->reader, log->position, block, sizeof(block));
        if (n == 0 && !begun_anew(log))
            break;
        int r = n == 0 ? 0 : n > 0 ? fd_write_all(out_fd, block, (size_t)n) : n == -ERANGE || n == -EIO ? skip_lost(log) : (int)n;
        if (r < 0)
            return r;
        if (n > 0)
            log->position += (uint64_t)n;
    }
    return 0;
}

int log_file_copy(struct log_file *log, int out_fd)
{
    struct stat named, open;

    int r = copy_rest(log, out_fd);
    if (r < 0)
        return r;
    if (fstatat(log->dirfd, log->name, &named, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(named.st_mode))
        return 0;
    if (log->reader.fd >= 0 && fstat(log->reader.fd, &open) == 0 && open.st_ino == named.st_ino && open.st_dev == named.st_dev)
        return 0;
    /* Another file has the name now. What was still written to the old one between our last read and its renaming comes first. */
    r = copy_rest(log, out_fd);
    if (r < 0)
        return r;
    log_file_close(log);
    r = open_reader(log);
    return r < 0 ? 0 : copy_rest(log, out_fd);
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
