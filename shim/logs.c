#include "shim/logs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/log_reader.h"
#include "lib/base/parse.h"
#include "proto/launch.h"
#include "shim/log_cut.h"

enum { TAIL_MAX = 4096, TAIL_TEXT_MAX = 400 };

static const char *const boot_logs[] = { FILE_CONSOLE_LOG, FILE_QEMU_LOG };

/* The incarnation in "console-12.log", or 0 when `file` isn't an earlier boot's `log`. */
static uint64_t earlier_boot(const char *file, const char *log)
{
    size_t stem = strlen(log) - strlen(".log"), len = strlen(file);
    char digits[24];
    uint64_t n;

    if (strncmp(file, log, stem) != 0 || file[stem] != '-' || len <= stem + 5 || !streq(file + len - 4, ".log"))
        return 0;
    len -= stem + 5;
    if (len >= sizeof(digits))
        return 0;
    memcpy(digits, file + stem + 1, len);
    digits[len] = '\0';
    return parse_u64(digits, 1, UINT64_MAX, &n) < 0 ? 0 : n;
}

static int earlier_name(char *buf, size_t size, const char *log, uint64_t incarnation)
{
    int n = snprintf(buf, size, "%.*s-%llu.log", (int)(strlen(log) - strlen(".log")), log, (unsigned long long)incarnation);

    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

/* The earlier boots of a log. */
struct boots {
    uint64_t lowest, highest, n;
};

static int find_boots(int log_fd, const char *log, struct boots *ret)
{
    struct boots boots = { .lowest = UINT64_MAX };
    struct dirent *d;
    uint64_t n;
    DIR *dir;
    int fd = openat(log_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    dir = fdopendir(fd);
    if (!dir) {
        fd_close(fd);
        return -ENOMEM;
    }
    while ((d = readdir(dir))) {
        n = earlier_boot(d->d_name, log);
        boots.n += n != 0;
        if (n != 0 && n < boots.lowest)
            boots.lowest = n;
        if (n > boots.highest)
            boots.highest = n;
    }
    (void)closedir(dir);
    *ret = boots;
    return 0;
}

/* Removes the lowest-numbered earlier boot of `log` when there are more than `keep`. 1: one was removed. */
static int prune_one(int log_fd, const char *log, uint64_t keep)
{
    auto_free struct log_piece *pieces = NULL;
    struct boots boots;
    char name[64];
    size_t n;
    int r = find_boots(log_fd, log, &boots);

    if (r < 0 || boots.n <= keep || earlier_name(name, sizeof(name), log, boots.lowest) < 0)
        return r;
    r = log_pieces_list(log_fd, name, &pieces, &n);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (unlinkat(log_fd, pieces[i].name, 0) < 0)
            r = -errno;
    /* Last, so that a boot of which something is left is found again. */
    return r < 0 ? r : unlinkat(log_fd, name, 0) < 0 ? -errno : 1;
}

/* The log first, then its pieces: pieces without a log tell that a crash came between, and the newest boot is the one they are of. */
static int put_away(int log_fd, const char *log, uint64_t previous)
{
    auto_free struct log_piece *pieces = NULL;
    char name[64], piece[LOG_NAME_MAX + 64];
    struct boots boots;
    bool missing;
    size_t n;
    int r = earlier_name(name, sizeof(name), log, previous);

    if (r < 0)
        return r;
    missing = renameat(log_fd, log, log_fd, name) < 0;
    if (missing && errno != ENOENT)
        return -errno;
    FAILPOINT("shim.log-put-away");
    r = log_pieces_list(log_fd, log, &pieces, &n);
    if (r < 0 || n == 0)
        return r;
    if (missing && find_boots(log_fd, log, &boots) == 0 && boots.n > 0)
        r = earlier_name(name, sizeof(name), log, boots.highest);
    for (size_t i = 0; r == 0 && i < n; i++) {
        (void)snprintf(piece, sizeof(piece), "%s%s", name, pieces[i].name + strlen(log));
        if (renameat(log_fd, pieces[i].name, log_fd, piece) < 0)
            r = -errno;
    }
    return r;
}

int logs_begin_boot(int log_fd, uint64_t previous, uint64_t keep)
{
    int r;

    for (size_t i = 0; i < ARRAY_LEN(boot_logs); i++) {
        r = log_cut_recover(log_fd, boot_logs[i], keep);
        if (r == 0)
            r = put_away(log_fd, boot_logs[i], previous);
        while (r == 0 && (r = prune_one(log_fd, boot_logs[i], keep)) > 0)
            r = 0;
        if (r < 0)
            return r;
    }
    return 0;
}

int log_file_open(int log_fd, const char *name)
{
    int fd = openat(log_fd, name, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0640);

    return fd < 0 ? -errno : fd;
}

uint64_t log_file_size(int log_fd, const char *name)
{
    struct stat st;

    return fstatat(log_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ? 0 : (uint64_t)st.st_size;
}

static char *join_lines(char *text, size_t lines)
{
    char *from = text + strlen(text), *out = malloc(TAIL_TEXT_MAX);
    size_t n = 0;

    if (!out)
        return NULL;
    /* Back to the beginning of the last `lines` lines; the text has no newline at its end. */
    while (from > text && (from[-1] != '\n' || ++n < lines))
        from--;
    n = 0;
    for (char *p = from; *p && n < TAIL_TEXT_MAX - 4; p++) {
        if (*p == '\n' && p[1] && n > 0) {
            memcpy(out + n, " | ", 3);
            n += 3;
        } else if ((unsigned char)*p >= ' ') {
            out[n++] = *p;
        }
    }
    out[n] = '\0';
    if (n == 0)
        free(out);
    return n == 0 ? NULL : out;
}

char *log_file_tail(int log_fd, const char *name, uint64_t offset, size_t lines)
{
    auto_fd int fd = openat(log_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    uint64_t size = log_file_size(log_fd, name);
    char text[TAIL_MAX + 1];
    ssize_t n;

    if (size < offset) /* its head was cut off since */
        offset = 0;
    if (fd < 0 || size <= offset)
        return NULL;
    if (size - offset > TAIL_MAX)
        offset = size - TAIL_MAX;
    n = pread(fd, text, TAIL_MAX, (off_t)offset);
    if (n <= 0)
        return NULL;
    while (n > 0 && text[n - 1] == '\n')
        n--;
    text[n] = '\0';
    return join_lines(text, lines);
}
