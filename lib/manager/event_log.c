#include "lib/manager/event_log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "proto/launch.h"

enum {
    EVENT_LOG_MODE = 0640,
    TAIL_FIRST = 4096, /* enough for the last line as a rule */
};

/* The newer half, from a line's beginning. */
static int cut(int dirfd)
{
    auto_free char *text = NULL;
    const char *from;
    size_t len;
    int r;

    r = file_read(dirfd, FILE_EVENTS, 4 * EVENT_LOG_MAX, &text, &len);
    if (r == -EFBIG)
        return file_set_aside(dirfd, FILE_EVENTS, NULL); /* not our doing */
    if (r < 0)
        return r;
    from = memchr(text + len / 2, '\n', len - len / 2);
    from = from ? from + 1 : text + len;
    return file_write(dirfd, FILE_EVENTS, from, len - (size_t)(from - text), EVENT_LOG_MODE, FILE_ATOMIC);
}

static int open_log(int dirfd, off_t *ret_size)
{
    struct stat st;
    auto_fd int fd = openat(dirfd, FILE_EVENTS, O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, EVENT_LOG_MODE);

    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_size = st.st_size;
    return steal_fd(&fd);
}

int event_log_append(int dirfd, const char *line, size_t len)
{
    char last = '\n';
    char newline[] = "\n";
    struct iovec parts[3] = { { newline, 0 }, { (void *)(uintptr_t)line, len }, { newline, 1 } };
    auto_fd int fd = -1;
    off_t size = 0;
    ssize_t n;
    int r;

    fd = open_log(dirfd, &size);
    if (fd < 0)
        return fd;
    if (size + (off_t)len > EVENT_LOG_MAX && size > 0) {
        r = cut(dirfd);
        if (r < 0)
            return r;
        fd_close(steal_fd(&fd));
        fd = open_log(dirfd, &size);
        if (fd < 0)
            return fd;
    }
    if (size > 0 && pread(fd, &last, 1, size - 1) == 1 && last != '\n')
        parts[0].iov_len = 1;
    n = writev(fd, parts, 3);
    if (n < 0)
        return -errno;
    return (size_t)n == parts[0].iov_len + len + 1 ? 0 : -ENOSPC;
}

/* The number in the last whole line of `text` that has one; lines cut at the front don't parse and are passed over. */
static bool last_number(char *text, size_t len, uint64_t *ret_seq)
{
    while (len > 0) {
        char *end, *begin;
        auto_json json_t *event = NULL;
        const json_t *seq;

        end = memrchr(text, '\n', len);
        if (!end)
            return false;
        begin = memrchr(text, '\n', (size_t)(end - text));
        begin = begin ? begin + 1 : text;
        if (json_parse(begin, (size_t)(end - begin), &event, NULL) >= 0) {
            seq = json_object_get(event, "seq");
            if (json_is_integer(seq) && json_integer_value(seq) > 0) {
                *ret_seq = (uint64_t)json_integer_value(seq);
                return true;
            }
        }
        len = (size_t)(begin - text);
    }
    return false;
}

int event_log_newest(int dirfd, const char *file, uint64_t *ret_seq)
{
    auto_fd int fd = openat(dirfd, file, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0 && errno == ENOENT) {
        *ret_seq = 0;
        return 0;
    }
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    for (off_t tail = TAIL_FIRST;; tail *= 8) {
        off_t from = st.st_size > tail ? st.st_size - tail : 0;
        auto_free char *text = malloc((size_t)(st.st_size - from) + 1);
        ssize_t n;

        if (!text)
            return -ENOMEM;
        n = pread(fd, text, (size_t)(st.st_size - from), from);
        if (n < 0)
            return -errno;
        if (last_number(text, (size_t)n, ret_seq))
            return 0;
        if (from == 0 || tail > 4 * EVENT_LOG_MAX)
            break;
    }
    *ret_seq = 0;
    return 0;
}

int event_log_read(int dirfd, const char *file, uint64_t since, void (*each)(void *arg, json_t *event), void *arg)
{
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(dirfd, file, 4 * EVENT_LOG_MAX, &text, &len);
    if (r == -ENOENT || r == -ENOTDIR)
        return 0;
    if (r < 0)
        return r;
    for (char *line = text, *end; (end = memchr(line, '\n', len - (size_t)(line - text))); line = end + 1) {
        auto_json json_t *event = NULL;
        const json_t *seq;

        if (json_parse(line, (size_t)(end - line), &event, NULL) < 0)
            continue;
        seq = json_object_get(event, "seq");
        if (json_is_integer(seq) && json_integer_value(seq) > 0 && (uint64_t)json_integer_value(seq) > since)
            each(arg, event);
    }
    return 0;
}
