/* The folders' half of lib/base/file.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"

int dir_open(int dirfd, const char *name)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    return fd < 0 ? -errno : fd;
}

/* One step of dir_make(): the folder `name` in `parent`, made if need be. O_PATH, since folders on the way may be searchable only. */
static int enter_or_make(int parent, const char *name, mode_t mode)
{
    if (mkdirat(parent, name, mode) < 0) {
        if (errno != EEXIST) {
            int saved = errno;
            /* mkdir says EROFS or EACCES also for what exists. */
            int fd = openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
            return fd < 0 ? -saved : fd;
        }
        int fd = openat(parent, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
    }
    auto_fd int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fchmod(fd, mode) < 0)
        return -errno;
    return steal_fd(&fd);
}

int dir_make(const char *path, mode_t mode, struct err *err)
{
    if (path[0] != '/')
        return err_set(err, EINVAL, "bad-path", "%s: not an absolute path", path);
    auto_fd int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "folder", "cannot open /");
    for (const char *p = path; *p;) {
        p += strspn(p, "/");
        size_t len = strcspn(p, "/");
        if (len == 0)
            break;
        auto_free char *name = NULL;
        if (str_format(&name, "%.*s", (int)len, p) < 0)
            return err_set_errno(err, ENOMEM, "folder", "cannot make folder %s", path);
        int next = enter_or_make(fd, name, mode);
        if (next < 0)
            return err_set_errno(err, -next, "folder", "cannot make folder %.*s", (int)(p + len - path), path);
        fd_close(fd);
        fd = next;
        p += len;
    }
    return 0;
}

/* Deeper than any folder of ours; more is told by -ELOOP, not followed until the fds run out. */
enum { REMOVE_DEPTH_MAX = 128 };

static int remove_tree(int dirfd, const char *name, int depth);

static void dir_stream_cleanup(DIR **dir)
{
    if (*dir)
        closedir(*dir);
}

/* Empties the folder `fd`, which it takes. Goes on after a failure and returns the first one. */
static int empty_folder_consume(int fd, int depth) /* NOLINT(misc-no-recursion): bounded by REMOVE_DEPTH_MAX */
{
    auto_cleanup(dir_stream_cleanup) DIR *dir = fdopendir(fd);
    if (!dir) {
        int saved = errno;
        fd_close(fd);
        return -saved;
    }
    int first = 0;
    for (;;) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry)
            return first < 0 ? first : -errno;
        if (streq(entry->d_name, ".") || streq(entry->d_name, ".."))
            continue;
        int r = remove_tree(fd, entry->d_name, depth + 1);
        if (r < 0 && first == 0)
            first = r;
    }
}

static int remove_tree(int dirfd, const char *name, int depth) /* NOLINT(misc-no-recursion): bounded by REMOVE_DEPTH_MAX */
{
    if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
        return 0;
    if (errno != EISDIR && errno != EPERM)
        return -errno;
    if (depth > REMOVE_DEPTH_MAX)
        return -ELOOP;
    int unlink_errno = errno;
    int fd = dir_open(dirfd, name);
    if (fd == -ENOENT)
        return 0;
    if (fd < 0)
        return fd == -ENOTDIR ? -unlink_errno : fd;
    int r = empty_folder_consume(fd, depth);
    if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
        return r < 0 ? r : -errno;
    return 0;
}

int dir_remove_tree(int dirfd, const char *name) { return remove_tree(dirfd, name, 0); }
