#include "lib/images/remove.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/use.h"

#define TOMBSTONE_PREFIX ".deleted-"

enum { STAT_BLOCK = 512 };

static int open_folder(const struct image_store *store, const char *name, const char *version)
{
    char path[IMAGE_PATH_MAX];
    int r = image_release_path(name, version, path);

    return r < 0 ? -ENOENT : dir_open(store->fd, path);
}

uint64_t image_disk_usage(const struct image_store *store, const char *name, const char *version)
{
    auto_fd int fd = open_folder(store, name, version);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    uint64_t bytes = 0;
    struct stat st;

    if (!dir)
        return 0;
    steal_fd(&fd);
    while ((entry = readdir(dir)))
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_blocks * STAT_BLOCK;
    closedir(dir);
    return bytes;
}

bool image_is_locked(const struct image_store *store, const char *name, const char *version)
{
    auto_fd int fd = open_folder(store, name, version);

    return fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}

/* ---- one release ---- */

static int check_snapshots(const struct image_store *store, int state_vms_fd, const char *name, const char *version, struct err *err)
{
    auto_strv struct strv snapshots = { 0 };
    bool unclear = false;
    int r = image_snapshots(state_vms_fd, store, name, version, &snapshots, &unclear);

    if (r < 0)
        return err_set_errno(err, -r, "in-use", "can't tell which snapshots need image %s/%s", name, version);
    if (unclear)
        return err_set(err, EBUSY, "in-use", "can't tell whether snapshot %s needs image %s/%s: its record can't be read",
                       snapshots.items[0], name, version);
    if (snapshots.n)
        return err_set(err, EBUSY, "in-use", "snapshot %s%s consists of files of image %s/%s", snapshots.items[0],
                       snapshots.n > 1 ? ", and others," : "", name, version);
    return 0;
}

static int check_users(int state_vms_fd, const char *name, const char *version, struct err *err)
{
    auto_strv struct strv vms = { 0 };
    bool unclear = false;
    int r = image_users(state_vms_fd, name, version, &vms, &unclear);

    if (r < 0)
        return err_set_errno(err, -r, "in-use", "can't tell which VMs use image %s/%s", name, version);
    if (unclear)
        return err_set(err, EBUSY, "in-use", "can't tell whether a VM uses image %s/%s: " FILE_IMAGE_USE " of %s can't be read", name,
                       version, vms.items[0]);
    if (vms.n)
        return err_set(err, EBUSY, "in-use", "image %s/%s is what %s%s was started with last", name, version, vms.items[0],
                       vms.n > 1 ? ", and others," : "");
    return 0;
}

/* Somebody holds it: most likely who was started with it. */
static int held(int state_vms_fd, const char *name, const char *version, struct err *err)
{
    auto_strv struct strv vms = { 0 };
    bool unclear = false;

    if (image_users(state_vms_fd, name, version, &vms, &unclear) >= 0 && !unclear && vms.n)
        return err_set(err, EBUSY, "in-use", "image %s/%s is what %s%s runs with: stop and delete it, or let it run with another one", name,
                       version, vms.items[0], vms.n > 1 ? ", and others," : "");
    return err_set(err, EBUSY, "in-use", "image %s/%s is held by a running VM or another process", name, version);
}

/* The folder, exclusively locked. */
static int take(const struct image_store *store, int state_vms_fd, const char *name, const char *version, struct err *err)
{
    auto_fd int fd = open_folder(store, name, version);
    int r;

    if (fd < 0)
        return err_set(err, ENOENT, "no-such-image", "there is no image \"%s/%s\" here", name, version);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? held(state_vms_fd, name, version, err)
                                    : err_set_errno(err, errno, "no-lock", "image %s/%s", name, version);
    /* Under the lock: whoever comes to use it takes that first, and writes the record then. */
    r = check_users(state_vms_fd, name, version, err);
    if (r >= 0)
        r = check_snapshots(store, state_vms_fd, name, version, err);
    return r < 0 ? r : steal_fd(&fd);
}

int image_may_remove(const struct image_store *store, int state_vms_fd, const char *name, const char *version, struct err *err)
{
    auto_fd int fd = take(store, state_vms_fd, name, version, err);

    return fd < 0 ? fd : 0;
}

int image_remove(const struct image_store *store, int state_vms_fd, const char *name, const char *version, uint64_t *ret_freed,
                 struct err *err)
{
    auto_fd int fd = take(store, state_vms_fd, name, version, err), parent = -1;
    auto_free char *tombstone = NULL;
    uint64_t freed;
    int r;

    if (fd < 0)
        return fd;
    freed = image_disk_usage(store, name, version);
    parent = dir_open(store->fd, name);
    if (parent < 0)
        return err_set_errno(err, -parent, "remove", "image %s/%s", name, version);
    if (str_format(&tombstone, TOMBSTONE_PREFIX "%s", version) < 0)
        return -ENOMEM;
    (void)dir_remove_tree(parent, tombstone);
    if (renameat2(parent, version, parent, tombstone, RENAME_NOREPLACE) < 0)
        return err_set_errno(err, errno, "remove", "image %s/%s", name, version);
    (void)fsync(parent);
    /* It can't be found any more: whoever waits for the lock needn't wait for the removal. */
    fd = fd_close(fd);
    r = dir_remove_tree(parent, tombstone);
    if (r < 0)
        return err_set_errno(err, -r, "remove", "%s/%s/%s", store->path, name, tombstone);
    *ret_freed = freed;
    return 0;
}

/* ---- what was cut off ---- */

static void sweep_name(int store_fd, const char *name)
{
    auto_fd int fd = dir_open(store_fd, name), again = -1;
    const struct dirent *entry;
    DIR *dir;

    if (fd < 0)
        return;
    again = dir_open(fd, ".");
    dir = again < 0 ? NULL : fdopendir(again);
    if (!dir)
        return;
    steal_fd(&again);
    while ((entry = readdir(dir)))
        if (has_prefix(entry->d_name, TOMBSTONE_PREFIX))
            (void)dir_remove_tree(fd, entry->d_name);
    closedir(dir);
}

void image_sweep(const struct image_store *store)
{
    auto_fd int fd = dir_open(store->fd, ".");
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir)
        return;
    steal_fd(&fd);
    while ((entry = readdir(dir)))
        if (image_name_is_valid(entry->d_name))
            sweep_name(store->fd, entry->d_name);
    closedir(dir);
}

/* ---- many ---- */

void prune_list_clear(struct prune_list *list)
{
    for (size_t i = 0; i < list->n; i++) {
        free(list->items[i].name);
        free(list->items[i].version);
        free(list->items[i].reason);
    }
    free(list->items);
    *list = (struct prune_list){ 0 };
}

static int add(struct prune_list *list, const struct image_release *release, uint64_t size, const char *reason)
{
    struct prune_item *item = &list->items[list->n++];

    item->size = size;
    if (str_set(&item->name, release->name) < 0 || str_set(&item->version, release->version) < 0 || str_set(&item->reason, reason) < 0)
        return -ENOMEM;
    return 0;
}

static int prune_one(const struct image_store *store, int state_vms_fd, const struct image_release *release, bool dry_run,
                     struct prune_list *list)
{
    struct err err = ERR_INIT;
    uint64_t size = image_disk_usage(store, release->name, release->version);
    int r = dry_run ? image_may_remove(store, state_vms_fd, release->name, release->version, &err)
                    : image_remove(store, state_vms_fd, release->name, release->version, &size, &err);

    if (r == -ENOMEM)
        return r;
    return add(list, release, size, r < 0 ? err.text : NULL);
}

int image_prune(const struct image_store *store, int state_vms_fd, const char *name, uint64_t keep, bool dry_run,
                struct prune_list *ret_list, struct err *err)
{
    auto_prune_list struct prune_list list = { 0 };
    auto_image_list struct image_list all = { 0 };
    uint64_t seen = 0;
    bool verified = false;
    int r = image_store_list(store, name, &all);

    if (r < 0)
        return r == -ENOMEM ? r : err_set_errno(err, -r, "unreadable", "%s", store->path);
    list.items = calloc(all.n + 1, sizeof(*list.items));
    if (!list.items)
        return -ENOMEM;
    for (size_t i = 0; i < all.n && r >= 0; i++) {
        const struct image_release *release = &all.items[i];
        bool first_verified;

        if (i == 0 || !streq(release->name, all.items[i - 1].name)) {
            seen = 0;
            verified = false;
        }
        first_verified = !verified && !release->problem;
        verified = verified || !release->problem;
        if (++seen <= keep)
            continue;
        if (release->problem && !release->record.name) /* whatever it is, or is going to be */
            r = add(&list, release, 0, release->problem);
        else
            r = first_verified ? add(&list, release, 0, "it is the newest verified one")
                               : prune_one(store, state_vms_fd, release, dry_run, &list);
    }
    if (r < 0)
        return r;
    *ret_list = list;
    list = (struct prune_list){ 0 };
    return 0;
}
