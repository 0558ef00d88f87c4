#include "shim/logs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "proto/launch.h"

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

/* Removes the lowest-numbered earlier boot of `log` when there are more than `keep`. 1: one was removed. */
static int prune_one(int log_fd, const char *log, uint64_t keep)
{
    uint64_t lowest = UINT64_MAX, n, count = 0;
    char name[64];
    struct dirent *d;
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
        count += n != 0;
        if (n != 0 && n < lowest)
            lowest = n;
    }
    closedir(dir);
    if (count <= keep || earlier_name(name, sizeof(name), log, lowest) < 0)
        return 0;
    return unlinkat(log_fd, name, 0) < 0 ? -errno : 1;
}

int logs_begin_boot(int log_fd, uint64_t previous, uint64_t keep)
{
    char name[64];
    int r;

    for (size_t i = 0; i < ARRAY_LEN(boot_logs); i++) {
        r = earlier_name(name, sizeof(name), boot_logs[i], previous);
        if (r < 0)
            return r;
        if (renameat(log_fd, boot_logs[i], log_fd, name) < 0 && errno != ENOENT)
            return -errno;
        do
            r = prune_one(log_fd, boot_logs[i], keep);
        while (r > 0);
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
