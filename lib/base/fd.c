#include "lib/base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>

int fd_close(int fd)
{
    if (fd >= 0) {
        int saved = errno;
        close(fd); /* Linux releases the number also on EINTR: close(2) */
        errno = saved;
    }
    return -1;
}

static int set_flag(int fd, int get, int set, int flag, bool on)
{
    int old = fcntl(fd, get);
    if (old < 0)
        return -errno;
    int new = on ? old | flag : old & ~flag;
    if (new != old && fcntl(fd, set, new) < 0)
        return -errno;
    return 0;
}

int fd_set_cloexec(int fd, bool on) { return set_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC, on); }

int fd_set_nonblock(int fd, bool on) { return set_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK, on); }

int fd_write_all(int fd, const void *data, size_t len)
{
    const char *p = data;
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0)
            return -EIO; /* no fd of ours does this; looping on it would never end */
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int fd_read_all(int fd, size_t limit, char **ret_data, size_t *ret_len)
{
    auto_free char *data = NULL;
    size_t len = 0, size = 0;
    for (;;) {
        if (len + 1 >= size) {
            size = size ? size * 2 : 4096;
            char *bigger = realloc(data, size);
            if (!bigger)
                return -ENOMEM;
            data = bigger;
        }
        ssize_t n = read(fd, data + len, size - len - 1);
        if (n < 0) {
            if (errno == EINTR)
                continue;
            return -errno;
        }
        if (n == 0)
            break;
        len += (size_t)n;
        if (len > limit)
            return -EFBIG;
    }
    data[len] = '\0';
    *ret_data = steal_ptr(&data);
    if (ret_len)
        *ret_len = len;
    return 0;
}

int fd_from_data(const char *name, const void *data, size_t len)
{
    auto_fd int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    /* pwrite leaves the offset at 0 for whoever reads it. */
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(fd, (const char *)data + done, len - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        return -errno;
    return steal_fd(&fd);
}

int fd_ensure_stdio(void)
{
    for (int target = 0; target <= 2; target++) {
        if (fcntl(target, F_GETFD) >= 0)
            continue;
        /* Lower numbers are taken by now, so open() gives this very one. Stdio is meant to be inherited. */
        int fd = open("/dev/null", O_RDWR | O_NOCTTY); /* NOLINT(android-cloexec-open) */
        if (fd < 0)
            return -errno;
        if (fd != target) {
            fd_close(fd);
            return -EBADF;
        }
    }
    return 0;
}

/* Async-signal-safe: spawn.c calls it between fork and exec. */
int fd_close_others(const int *keep, size_t n)
{
    unsigned start = 3;
    for (;;) {
        unsigned next = UINT_MAX;
        for (size_t i = 0; i < n; i++)
            if (keep[i] >= 0 && (unsigned)keep[i] >= start && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        unsigned last = next == UINT_MAX ? UINT_MAX : next - 1;
        if (start <= last && close_range(start, last, 0) < 0)
            return -errno;
        if (next == UINT_MAX)
            return 0;
        start = next + 1;
    }
}
