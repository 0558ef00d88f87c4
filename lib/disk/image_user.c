/* Who holds a lock on an image: /proc/locks has no pid for OFD locks, but fdinfo shows them with the descriptor they belong to, proc(5). */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "lib/disk/image.h"

enum { FDINFO_MAX = 64 * 1024, COMMAND_MAX = 64 };

static DIR *open_dir(int parent, const char *name)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);

    if (!dir)
        fd_close(fd);
    return dir;
}

static int read_text(int parent, const char *name, char **ret)
{
    auto_fd int fd = openat(parent, name, O_RDONLY | O_CLOEXEC);
    size_t len;

    return fd < 0 ? -errno : fd_read_all(fd, FDINFO_MAX, ret, &len);
}

static bool has_lock(int process, const char *fd_name)
{
    auto_free char *name = NULL, *text = NULL;

    if (str_format(&name, "fdinfo/%s", fd_name) < 0 || read_text(process, name, &text) < 0 || !text)
        return false;
    return strstr(text, "\nlock:") && strstr(text, "OFDLCK");
}

static bool process_has(int process, const struct stat *image)
{
    DIR *fds = open_dir(process, "fd");
    const struct dirent *entry;
    bool found = false;
    struct stat st;

    if (!fds)
        return false;
    while (!found && (entry = readdir(fds)))
        found = fstatat(dirfd(fds), entry->d_name, &st, 0) == 0 && st.st_dev == image->st_dev && st.st_ino == image->st_ino &&
                has_lock(process, entry->d_name);
    closedir(fds);
    return found;
}

static char *describe(int process, const char *pid)
{
    auto_free char *command = NULL;
    char *text = NULL;

    if (read_text(process, "comm", &command) < 0 || !command)
        return NULL;
    command[strcspn(command, "\n")] = '\0';
    utf8_clean(command);
    return str_format(&text, "pid %s (%.*s)", pid, COMMAND_MAX, command) < 0 ? NULL : text;
}

char *image_user(int fd)
{
    DIR *proc = open_dir(AT_FDCWD, "/proc");
    const struct dirent *entry;
    char *user = NULL;
    struct stat image;

    if (!proc)
        return NULL;
    while (fstat(fd, &image) == 0 && !user && (entry = readdir(proc))) {
        auto_fd int process = -1;

        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        process = openat(dirfd(proc), entry->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (process >= 0 && process_has(process, &image))
            user = describe(process, entry->d_name);
    }
    closedir(proc);
    return user;
}
