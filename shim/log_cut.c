/* The steps, and why a crash after any of them loses and doubles nothing:
 *
 *   1. the head is copied to NAME.cut, which is synced
 *   2. NAME.cut becomes NAME.START.END: from here on the log below END is a copy, whatever is in it
 *   3. a hole is punched there
 *   4. NAME.START.END becomes NAME.START: from here on the log begins with a hole, or no longer does
 *   5. the hole is collapsed
 *
 * Nothing needs to be compared to go on: a NAME.START.END says "3", a log that begins with a hole says "5", since no writer that appends
 * makes holes. Where step 5 isn't known (tmpfs, btrfs) the hole stays: the log's offsets grow, the space it takes doesn't. Where step 3
 * isn't either, the log is left to grow: truncating it would lose what the writer appends between the copy and the cut.
 *
 * A cut is at a block's end, since only whole blocks can be collapsed; so a line may begin in one piece and end in the next. */
#include "shim/log_cut.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/log_reader.h"

enum { COPY_CHUNK = 128 * 1024, PROBE_BEYOND = 1 << 30 };

static int open_log(int log_fd, const char *name)
{
    int fd = openat(log_fd, name, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    return fd < 0 ? -errno : fd;
}

static int punch(int fd, off_t from, off_t len)
{
    return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, len) < 0 ? -errno : 0;
}

static int remove_oldest(int log_fd, const struct log_piece *pieces, size_t n, uint64_t keep)
{
    size_t left = keep > 0 ? (size_t)keep : 1; /* with none kept the one that is left is empty: the position */

    for (size_t i = 0; n - i > left; i++)
        if (unlinkat(log_fd, pieces[i].name, 0) < 0 && errno != ENOENT)
            return -errno;
    return 0;
}

/* Steps 3 to 5, of which some may have been done. */
static int complete(int log_fd, const char *name, int fd, uint64_t keep)
{
    auto_free struct log_piece *pieces = NULL;
    char final[LOG_NAME_MAX + 24];
    struct stat st;
    off_t hole;
    size_t n;
    int r = log_pieces_list(log_fd, name, &pieces, &n);

    if (r < 0)
        return r;
    if (n > 0 && pieces[n - 1].end > 0) {
        r = punch(fd, 0, pieces[n - 1].end);
        if (r < 0)
            return r;
        FAILPOINT("shim.log-punched");
        (void)snprintf(final, sizeof(final), "%s.%0" LOG_PIECE_DIGITS "llu", name, (unsigned long long)pieces[n - 1].start);
        if (renameat(log_fd, pieces[n - 1].name, log_fd, final) < 0)
            return -errno;
        FAILPOINT("shim.log-named");
    }
    hole = log_leading_hole(fd);
    if (hole > 0 && fstat(fd, &st) == 0 && hole < st.st_size)
        (void)fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, hole);
    return remove_oldest(log_fd, pieces, n, keep);
}

static int copy(int from_fd, off_t from, off_t to, int out_fd)
{
    auto_free char *chunk = malloc(COPY_CHUNK);
    ssize_t n;
    int r;

    if (!chunk)
        return -ENOMEM;
    for (; from < to; from += n) {
        n = pread(from_fd, chunk, to - from < COPY_CHUNK ? (size_t)(to - from) : COPY_CHUNK, from);
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        r = fd_write_all(out_fd, chunk, (size_t)n);
        if (r < 0)
            return r;
    }
    return fsync(out_fd) < 0 ? -errno : 0;
}

/* Steps 1 and 2: the bytes of the log between two offsets become its newest piece. */
static int commit(int log_fd, const char *name, int fd, off_t from, off_t to, uint64_t keep)
{
    auto_free struct log_piece *pieces = NULL;
    char temporary[LOG_NAME_MAX + 8], piece[LOG_NAME_MAX + 48];
    uint64_t start;
    size_t n;
    int r = log_pieces_list(log_fd, name, &pieces, &n);

    if (r < 0)
        return r;
    start = log_pieces_end(pieces, n) + (keep > 0 ? 0 : (uint64_t)(to - from));
    (void)snprintf(temporary, sizeof(temporary), "%s.cut", name);
    (void)snprintf(piece, sizeof(piece), "%s.%0" LOG_PIECE_DIGITS "llu.%llu", name, (unsigned long long)start, (unsigned long long)to);
    auto_fd int out = openat(log_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (out < 0)
        return -errno;
    r = keep > 0 ? copy(fd, from, to, out) : 0;
    /* The writer waits while the hole is punched, and that is done with the head's pages written: so they are written before. */
    if (r == 0 && fdatasync(fd) < 0)
        r = -errno;
    FAILPOINT("shim.log-copied");
    if (r == 0 && renameat(log_fd, temporary, log_fd, piece) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(log_fd, temporary, 0);
        return r;
    }
    (void)fsync(log_fd);
    FAILPOINT("shim.log-committed");
    return 0;
}

int log_cut_recover(int log_fd, const char *name, uint64_t keep)
{
    auto_fd int fd = open_log(log_fd, name);
    char temporary[LOG_NAME_MAX + 8];

    (void)snprintf(temporary, sizeof(temporary), "%s.cut", name);
    (void)unlinkat(log_fd, temporary, 0);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    return complete(log_fd, name, fd, keep);
}

int log_cut(int log_fd, const char *name, uint64_t max_size, uint64_t keep)
{
    auto_fd int fd = open_log(log_fd, name);
    struct statfs fs;
    struct stat st;
    off_t from, to, block;
    int r;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    r = complete(log_fd, name, fd, keep);
    if (r < 0)
        return r;
    if (fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0)
        return -errno;
    block = fs.f_bsize >= 512 ? (off_t)fs.f_bsize : 4096;
    from = log_leading_hole(fd);
    /* Something must be left: a range that reaches the end can't be collapsed, and the writer's next byte shows where the hole ends. */
    to = (st.st_size - 1) / block * block;
    if (max_size == 0 || (uint64_t)(st.st_size - from) < max_size || to <= from)
        return 0;
    r = punch(fd, (st.st_size / block + 1) * block + PROBE_BEYOND, block); /* nothing is there: only to know whether it can */
    if (r < 0)
        return r;
    r = commit(log_fd, name, fd, from, to, keep);
    if (r == 0)
        r = complete(log_fd, name, fd, keep);
    return r < 0 ? r : 1;
}
