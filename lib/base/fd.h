/* File descriptors: owned by exactly one variable, -1 when empty, always made with O_CLOEXEC. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/base/util.h"

/* Closes `fd` unless it is negative, errno preserved. Returns -1: `fd = fd_close(fd);`. */
int fd_close(int fd);
static inline void fd_cleanup(int *fd) { fd_close(*fd); }
#define auto_fd auto_cleanup(fd_cleanup)

#define steal_fd(p)         \
    ({                      \
        int stolen_ = *(p); \
        *(p) = -1;          \
        stolen_;            \
    })

int fd_set_cloexec(int fd, bool on);
int fd_set_nonblock(int fd, bool on);

/* Writes all of `len` bytes to a blocking fd; retries EINTR and short writes. 0 or -errno. SIGPIPE is the caller's matter. */
int fd_write_all(int fd, const void *data, size_t len);

/* Reads to end of file into a malloc'ed buffer with a NUL added after *ret_len bytes. -EFBIG when there is more than `limit`. */
int fd_read_all(int fd, size_t limit, char **ret_data, size_t *ret_len);

/* Makes a sealed-size memfd holding `data` with its offset at 0, see memfd_create(2). Returns the fd. */
int fd_from_data(const char *name, const void *data, size_t len);

/* Points 0, 1 and 2 at /dev/null where they aren't open, so that no later open lands on them. */
int fd_ensure_stdio(void);

/* Closes every fd >= 3 that isn't one of the `n` in `keep` (close_range(2)). For the first lines of a main(). */
int fd_close_others(const int *keep, size_t n);
