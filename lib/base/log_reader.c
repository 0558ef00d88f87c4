#include "lib/base/log_reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"

enum {
    PIECES_MAX = 4096,
    TRIES_MAX = 40, /* for a look that a rotation doesn't disturb; each waits a little after the first few */
    TRIES_AT_ONCE = 5,
};

/* Digits up to `stop`, which is passed. */
static bool take_number(const char **p, char stop, uint64_t *ret)
{
    char digits[24];
    size_t len = strspn(*p, "0123456789");

    if (len == 0 || len >= sizeof(digits) || (*p)[len] != stop)
        return false;
    memcpy(digits, *p, len);
    digits[len] = '\0';
    *p += len + (stop != '\0');
    return parse_u64(digits, 0, INT64_MAX, ret) >= 0;
}

static bool parse_piece(const char *file, const char *log, struct log_piece *ret)
{
    size_t len = strlen(log);
    const char *p = file + len + 1;
    uint64_t start, end = 0;

    if (strncmp(file, log, len) != 0 || file[len] != '.' || strlen(file) >= sizeof(ret->name))
        return false;
    if (!take_number(&p, '\0', &start) && !(take_number(&p, '.', &start) && take_number(&p, '\0', &end)))
        return false;
    *ret = (struct log_piece){ .start = start, .end = (off_t)end };
    memcpy(ret->name, file, strlen(file) + 1);
    return true;
}

static int by_start(const void *a, const void *b)
{
    const struct log_piece *x = a, *y = b;

    /* The empty one that only holds a position comes first; of a piece seen under both of its names the finished one comes last. */
    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->size != y->size ? (x->size < y->size ? -1 : 1) : (x->end < y->end) - (x->end > y->end);
}

static int add_piece(struct log_piece **pieces, size_t *n, const struct log_piece *piece)
{
    struct log_piece *more = reallocarray(*pieces, *n + 1, sizeof(*more));

    if (!more)
        return -ENOMEM;
    *pieces = more;
    more[(*n)++] = *piece;
    return 0;
}

int log_pieces_list(int dirfd, const char *name, struct log_piece **ret_pieces, size_t *ret_n)
{
    auto_free struct log_piece *pieces = NULL;
    struct log_piece piece;
    struct dirent *d;
    struct stat st;
    size_t n = 0;
    int r = 0, fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir) {
        r = fd < 0 ? -errno : -ENOMEM;
        fd_close(fd);
        return r;
    }
    while (r == 0 && n < PIECES_MAX && (d = readdir(dir))) {
        if (!parse_piece(d->d_name, name, &piece) || fstatat(dirfd, d->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
            continue;
        piece.size = (uint64_t)st.st_size;
        r = add_piece(&pieces, &n, &piece);
    }
    (void)closedir(dir);
    if (r < 0)
        return r;
    if (n > 0)
        qsort(pieces, n, sizeof(*pieces), by_start);
    *ret_pieces = steal_ptr(&pieces);
    *ret_n = n;
    return 0;
}

uint64_t log_pieces_end(const struct log_piece *pieces, size_t n) { return n > 0 ? pieces[n - 1].start + pieces[n - 1].size : 0; }

off_t log_leading_hole(int fd)
{
    off_t data = fd < 0 ? 0 : lseek(fd, 0, SEEK_DATA);
    struct stat st;

    if (data < 0 && errno == ENXIO && fstat(fd, &st) == 0)
        return st.st_size;
    return data < 0 ? 0 : data;
}

/* Takes in what there is now. -EAGAIN: something is being moved. */
static int look(struct log_reader *r)
{
    struct log_piece *pieces = NULL;
    uint64_t joint;
    size_t n = 0;
    int e = log_pieces_list(r->dirfd, r->name, &pieces, &n);

    if (e < 0)
        return e;
    joint = log_pieces_end(pieces, n);
    if (joint < r->joint) { /* pieces that are being put away together with their log, or were removed by somebody */
        free(pieces);
        return -EAGAIN;
    }
    free(r->pieces);
    r->pieces = pieces;
    r->n = n;
    r->joint = joint;
    r->data = n > 0 && pieces[n - 1].end > 0 ? pieces[n - 1].end : log_leading_hole(r->fd);
    return 0;
}

static void rest(int tries)
{
    const struct timespec ms = { .tv_nsec = 1000 * 1000 };

    if (tries >= TRIES_AT_ONCE)
        (void)nanosleep(&ms, NULL);
}

/* As look(), with patience: a rename takes no time. */
static int look_well(struct log_reader *r)
{
    int e = -EAGAIN;

    for (int tries = 0; e == -EAGAIN && tries < TRIES_MAX; tries++) {
        e = look(r);
        if (e == -EAGAIN) {
            (void)log_reader_replaced(r);
            rest(tries);
        }
    }
    if (e == -EAGAIN)
        r->joint = 0; /* somebody removed the newest piece: whoever reads on takes the range anew */
    return e == -EAGAIN ? -EIO : e;
}

/* Whether nothing has been cut since the look. */
static bool still(const struct log_reader *r)
{
    struct log_piece *pieces = NULL;
    size_t n = 0;
    bool same;

    if (log_pieces_list(r->dirfd, r->name, &pieces, &n) < 0)
        return false;
    same = log_pieces_end(pieces, n) == r->joint && (n > 0 ? pieces[n - 1].end : 0) == (r->n > 0 ? r->pieces[r->n - 1].end : 0);
    same = same && ((n > 0 && pieces[n - 1].end > 0) || log_leading_hole(r->fd) == r->data);
    free(pieces);
    return same;
}

int log_reader_open(struct log_reader *r, int dirfd, const char *name)
{
    *r = (struct log_reader){ .dirfd = dirfd, .fd = -1 };
    if (strlen(name) >= sizeof(r->name))
        return -ENAMETOOLONG;
    memcpy(r->name, name, strlen(name) + 1);
    r->fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    return r->fd < 0 ? -errno : 0;
}

void log_reader_close(struct log_reader *r)
{
    r->fd = fd_close(r->fd);
    free(steal_ptr(&r->pieces));
    r->n = 0;
}

/* The name that our file has now in the folder, into r->name. */
static bool find_again(struct log_reader *r, const struct stat *ours)
{
    int fd = openat(r->dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool found = false;
    struct dirent *d;

    if (!dir) {
        fd_close(fd);
        return false;
    }
    while (!found && (d = readdir(dir))) {
        found = d->d_ino == ours->st_ino && strlen(d->d_name) < sizeof(r->name);
        if (found)
            memcpy(r->name, d->d_name, strlen(d->d_name) + 1);
    }
    (void)closedir(dir);
    return found;
}

int log_reader_replaced(struct log_reader *r)
{
    struct stat ours, named;

    if (r->fd < 0 || fstat(r->fd, &ours) < 0)
        return -1;
    if (fstatat(r->dirfd, r->name, &named, AT_SYMLINK_NOFOLLOW) == 0 && named.st_ino == ours.st_ino && named.st_dev == ours.st_dev)
        return 0;
    if (ours.st_nlink > 0)
        (void)find_again(r, &ours);
    return -1;
}

int log_reader_range(struct log_reader *r, uint64_t *ret_start, uint64_t *ret_end)
{
    struct stat st = { 0 };

    for (int tries = 0; tries < TRIES_MAX; tries++) {
        int e = look_well(r);
        if (e < 0)
            return e;
        if (r->fd >= 0 && fstat(r->fd, &st) < 0)
            return -errno;
        if (still(r)) {
            *ret_start = r->n > 0 ? r->pieces[0].start : 0;
            *ret_end = r->joint + (st.st_size > r->data ? (uint64_t)(st.st_size - r->data) : 0);
            return 0;
        }
        rest(tries);
    }
    return -EIO;
}

/* -EAGAIN: the piece has another name by now. */
static ssize_t read_piece(const struct log_reader *r, const struct log_piece *piece, uint64_t position, void *buf, size_t size)
{
    auto_fd int fd = openat(r->dirfd, piece->name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n;

    if (fd < 0)
        return errno == ENOENT ? -EAGAIN : -errno;
    n = pread(fd, buf, size, (off_t)(position - piece->start));
    return n < 0 ? -errno : n;
}

static ssize_t read_once(struct log_reader *r, uint64_t position, void *buf, size_t size)
{
    ssize_t n;

    if (position >= r->joint) {
        n = r->fd < 0 ? 0 : pread(r->fd, buf, size, r->data + (off_t)(position - r->joint));
        if (n < 0)
            return -errno;
        return still(r) ? n : -EAGAIN; /* else these may be other bytes */
    }
    for (size_t i = 0; i < r->n; i++)
        if (position >= r->pieces[i].start && position < r->pieces[i].start + r->pieces[i].size)
            return read_piece(r, &r->pieces[i], position, buf, size);
    return -ERANGE;
}

ssize_t log_reader_read(struct log_reader *r, uint64_t position, void *buf, size_t size)
{
    ssize_t n = -EAGAIN;

    for (int tries = 0; n == -EAGAIN && tries < TRIES_MAX; tries++) {
        int e = look_well(r);
        if (e < 0)
            return e;
        n = read_once(r, position, buf, size);
        if (n == -EAGAIN)
            rest(tries);
    }
    return n == -EAGAIN ? -EIO : n;
}

uint64_t log_reader_next(const struct log_reader *r, uint64_t position)
{
    for (size_t i = 0; i < r->n; i++)
        if (r->pieces[i].start > position)
            return r->pieces[i].start;
    return r->joint;
}
