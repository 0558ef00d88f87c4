#include "lib/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/fd.h"

int file_read(int dirfd, const char *name, size_t limit, char **ret_data, size_t *ret_len)
{
    /* O_NONBLOCK: a fifo in the place of a record must not hang us. */
    auto_fd int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return -errno;
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISDIR(st.st_mode))
        return -EISDIR;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    return fd_read_all(fd, limit, ret_data, ret_len);
}

/* Whether `fd` is still what `name` names. */
static bool same_file(int fd, int dirfd, const char *name)
{
    struct stat a, b;
    return fstat(fd, &a) == 0 && fstatat(dirfd, name, &b, AT_SYMLINK_NOFOLLOW) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* Opens a lock file (or makes it) and locks it. A file that was removed or renamed before our lock was granted locks nothing that
 * others will look at, so look again. */
static int open_locked(int dirfd, const char *name)
{
    for (;;) {
        auto_fd int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, 0600);
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
            return -errno;
        if (same_file(fd, dirfd, name))
            return steal_fd(&fd);
    }
}

/* Where a record goes to: its folder as an fd, and its name in there. */
static int open_folder(int dirfd, const char *name, const char **ret_base)
{
    const char *slash = strrchr(name, '/');
    auto_free char *parent = NULL;
    if (str_format(&parent, "%.*s", !slash || slash == name ? 1 : (int)(slash - name), slash ? name : ".") < 0)
        return -ENOMEM;
    int fd = openat(dirfd, parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    *ret_base = slash ? slash + 1 : name;
    return fd;
}

static int write_temporary(int fd, const void *data, size_t len, mode_t mode, enum file_durability durability)
{
    if (ftruncate(fd, 0) < 0 || fchmod(fd, mode) < 0)
        return -errno;
    int r = fd_write_all(fd, data, len);
    if (r < 0)
        return r;
    if (durability == FILE_DURABLE && fsync(fd) < 0)
        return -errno;
    return 0;
}

/* The temporary file has one fixed name, so that writers that crash leave at most one behind and the next takes it over. It is flocked
 * while it is written: two writers of one record can't mix (the second gets -EWOULDBLOCK), and a crashed one holds no lock. */
int file_write(int dirfd, const char *name, const void *data, size_t len, mode_t mode, enum file_durability durability)
{
    const char *base = name;
    auto_fd int folder = open_folder(dirfd, name, &base);
    if (folder < 0)
        return folder;
    if (!*base)
        return -EISDIR;
    auto_free char *temporary = NULL;
    int r = str_format(&temporary, ".%s.tmp", base);
    if (r < 0)
        return r;
    auto_fd int fd = open_locked(folder, temporary);
    if (fd < 0)
        return fd;
    r = write_temporary(fd, data, len, mode, durability);
    if (r >= 0 && renameat(folder, temporary, folder, base) < 0)
        r = -errno;
    if (r < 0) {
        unlinkat(folder, temporary, 0);
        return r;
    }
    if (durability == FILE_DURABLE && fsync(folder) < 0)
        return -errno;
    return 0;
}

/* Renames without replacing, also on file systems that can't do it in one step. */
static int rename_to_free(int dirfd, const char *from, const char *to)
{
    if (renameat2(dirfd, from, dirfd, to, RENAME_NOREPLACE) == 0)
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -errno;
    if (linkat(dirfd, from, dirfd, to, 0) < 0)
        return -errno;
    return unlinkat(dirfd, from, 0) < 0 ? -errno : 0;
}

int file_set_aside(int dirfd, const char *name, char **ret_new_name)
{
    for (unsigned i = 1; i != 0; i++) {
        auto_free char *new_name = NULL;
        int r = str_format(&new_name, "%s.corrupt-%u", name, i);
        if (r < 0)
            return r;
        r = rename_to_free(dirfd, name, new_name);
        if (r == -EEXIST)
            continue;
        if (r < 0)
            return r;
        if (ret_new_name)
            *ret_new_name = steal_ptr(&new_name);
        return 0;
    }
    return -EEXIST;
}

int lock_take(int dirfd, const char *name) { return open_locked(dirfd, name); }

int lock_is_held(int dirfd, const char *name)
{
    auto_fd int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    if (flock(fd, LOCK_SH | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? 1 : -errno;
    return 0;
}
