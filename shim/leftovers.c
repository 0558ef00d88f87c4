#include "shim/leftovers.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/util.h"
#include "lib/disk/image.h"
#include "proto/made_image.h"

static bool is_planned(const struct plan *plan, const char *name)
{
    for (size_t i = 0; i < plan->n_disks; i++) {
        const char *slash = strrchr(plan->disks[i].path, '/');

        if (slash && streq(slash + 1, name))
            return true;
    }
    return false;
}

/* A snapshot's image has more names than one, or no write permission (shim/layers_keep.c). */
static void remove_image(int folder_fd, const char *name)
{
    auto_fd int fd = openat(folder_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return;
    if (st.st_nlink == 1 && ((st.st_mode & 0222) == 0 || image_in_use(fd, IMAGE_ANY) != 0))
        return;
    (void)unlinkat(folder_fd, name, 0);
}

void leftovers_remove(int state_fd, const struct plan *plan)
{
    int fd = openat(state_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir) {
        fd_close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        if (has_prefix(entry->d_name, MADE_STAGING_PREFIX))
            (void)dir_remove_tree(dirfd(dir), entry->d_name);
        else if (made_image_is_name(entry->d_name) && !is_planned(plan, entry->d_name))
            remove_image(dirfd(dir), entry->d_name);
    }
    closedir(dir);
}
