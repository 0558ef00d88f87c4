#include "lib/images/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/newest.h"

enum { FOLDER_MODE = 0755 };

int image_store_open(const char *state_dir, struct image_store *ret_store, struct err *err)
{
    auto_image_store struct image_store store = IMAGE_STORE_NONE;
    int r;

    if (str_format(&store.path, "%s/" FOLDER_IMAGES, state_dir) < 0)
        return -ENOMEM;
    r = dir_make(store.path, FOLDER_MODE, err);
    if (r < 0)
        return r;
    store.fd = dir_open(AT_FDCWD, store.path);
    if (store.fd < 0)
        return err_set_errno(err, -store.fd, "no-folder", "can't open %s", store.path);
    *ret_store = store;
    store = IMAGE_STORE_NONE;
    return 0;
}

void image_store_close(struct image_store *store)
{
    store->fd = fd_close(store->fd);
    free(store->path);
    store->path = NULL;
}

void image_release_clear(struct image_release *release)
{
    free(release->name);
    free(release->version);
    free(release->path);
    free(release->problem);
    image_record_clear(&release->record);
    *release = (struct image_release){ 0 };
}

void image_list_clear(struct image_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        image_release_clear(&list->items[i]);
    free(list->items);
    *list = (struct image_list){ 0 };
}

int image_release_path(const char *name, const char *version, char buf[IMAGE_PATH_MAX])
{
    if (!image_name_is_valid(name) || !image_version_is_valid(version))
        return -EINVAL;
    (void)snprintf(buf, IMAGE_PATH_MAX, "%s/%s", name, version);
    return 0;
}

/* The folder of one. Neither part of the path may be a link. */
static int open_release(const struct image_store *store, const char *name, const char *version)
{
    auto_fd int fd = -1;

    if (!image_name_is_valid(name) || !image_version_is_valid(version))
        return -ENOENT;
    fd = dir_open(store->fd, name);
    return fd < 0 ? fd : dir_open(fd, version);
}

/* ---- reading ---- */

static int check_files(int folder_fd, struct image_release *release, struct err *err)
{
    const struct image_record *record = &release->record;
    int r = 0;

    if (!streq(record->name, release->name) || !streq(record->version, release->version))
        return err_set(err, EINVAL, "damaged", FILE_IMAGE " is of %s/%s", record->name, record->version);
    for (size_t i = 0; i < record->n_files; i++) {
        bool seen = false;

        for (size_t k = 0; k < i; k++)
            seen = seen || streq(record->files[k].filename, record->files[i].filename);
        if (!seen)
            release->size += record->files[i].size;
        if (r >= 0)
            r = image_file_check(folder_fd, &record->files[i], err);
    }
    return r;
}

static int read_release(const struct image_store *store, int folder_fd, const char *name, const char *version,
                        struct image_release *ret_release)
{
    auto_image_release struct image_release release = { 0 };
    struct err err = ERR_INIT;
    int r;

    if (str_set(&release.name, name) < 0 || str_set(&release.version, version) < 0 ||
        str_format(&release.path, "%s/%s/%s", store->path, name, version) < 0)
        return -ENOMEM;
    r = image_record_read(folder_fd, &release.record, &err);
    if (r >= 0)
        r = check_files(folder_fd, &release, &err);
    if (r == -ENOMEM || (r < 0 && str_set(&release.problem, err.text) < 0))
        return -ENOMEM;
    *ret_release = release;
    release = (struct image_release){ 0 };
    return 0;
}

int image_release_read(const struct image_store *store, const char *name, const char *version, struct image_release *ret_release)
{
    auto_fd int fd = open_release(store, name, version);

    if (fd < 0)
        return fd == -ENOTDIR || fd == -ELOOP ? -ENOENT : fd;
    return read_release(store, fd, name, version, ret_release);
}

/* ---- listing ---- */

static int add_release(const struct image_store *store, const char *name, const char *version, struct image_list *list)
{
    struct image_release release;
    struct image_release *longer;
    int r = image_release_read(store, name, version, &release);

    if (r < 0)
        return r == -ENOENT ? 0 : r; /* no folder, or just deleted */
    longer = reallocarray(list->items, list->n + 1, sizeof(*longer));
    if (!longer) {
        image_release_clear(&release);
        return -ENOMEM;
    }
    list->items = longer;
    list->items[list->n++] = release;
    return 0;
}

static int compare(const void *a, const void *b, void *newest)
{
    const struct image_release *left = a, *right = b;

    return -image_newest_compare(newest, left->version, right->version);
}

/* Calls `each` for every valid name in the folder. */
static int each_name(int dirfd, int (*each)(void *arg, const char *name), void *arg)
{
    auto_fd int fd = dir_open(dirfd, ".");
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    int r = 0;

    if (!dir)
        return fd < 0 ? fd : -errno;
    steal_fd(&fd);
    while (r >= 0 && (errno = 0, entry = readdir(dir)))
        if (image_name_is_valid(entry->d_name))
            r = each(arg, entry->d_name);
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

struct listing {
    const struct image_store *store;
    const char *name;
    struct image_list *list;
};

static int list_version(void *arg, const char *version)
{
    struct listing *l = arg;

    return image_version_is_valid(version) ? add_release(l->store, l->name, version, l->list) : 0;
}

static int list_name(void *arg, const char *name)
{
    struct listing *l = arg;
    auto_image_newest struct image_newest newest = { 0 };
    size_t before = l->list->n;
    auto_fd int fd = dir_open(l->store->fd, name);
    int r;

    if (fd < 0)
        return fd == -ENOTDIR || fd == -ELOOP || fd == -ENOENT ? 0 : fd;
    l->name = name;
    r = each_name(fd, list_version, l);
    if (r >= 0)
        r = image_newest_read(l->store->fd, name, &newest);
    if (r >= 0 && l->list->n > before)
        qsort_r(l->list->items + before, l->list->n - before, sizeof(*l->list->items), compare, &newest);
    return r;
}

static int by_name(const void *a, const void *b, void *unused)
{
    const char *const *left = a, *const *right = b;

    return strcmp(*left, *right);
}

static int collect(void *arg, const char *name)
{
    struct strv *names = arg;

    strv_push(names, name);
    return names->failed ? -ENOMEM : 0;
}

int image_store_list(const struct image_store *store, const char *name, struct image_list *ret_list)
{
    auto_image_list struct image_list list = { 0 };
    auto_strv struct strv names = { 0 };
    struct listing listing = { .store = store, .list = &list };
    int r = 0;

    if (name && image_name_is_valid(name))
        r = collect(&names, name);
    else if (!name)
        r = each_name(store->fd, collect, &names);
    if (names.n)
        qsort_r(names.items, names.n, sizeof(*names.items), by_name, NULL); /* NOLINT(bugprone-sizeof-expression): of pointers */
    for (size_t i = 0; i < names.n && r >= 0; i++)
        r = list_name(&listing, names.items[i]);
    if (r < 0)
        return r;
    *ret_list = list;
    list = (struct image_list){ 0 };
    return 0;
}

/* ---- finding ---- */

static int find_newest(const struct image_store *store, const char *name, struct image_release *ret_release, struct err *err)
{
    auto_image_list struct image_list list = { 0 };
    int r = image_store_list(store, name, &list);

    if (r < 0)
        return r == -ENOMEM ? r : err_set_errno(err, -r, "unreadable", "%s/%s", store->path, name);
    for (size_t i = 0; i < list.n; i++) {
        if (list.items[i].problem)
            continue;
        *ret_release = list.items[i];
        list.items[i] = (struct image_release){ 0 };
        return 0;
    }
    if (list.n)
        return err_set(err, ENOENT, "no-such-image", "no release of %s here is verified; the newest, %s: %s", name, list.items[0].version,
                       list.items[0].problem);
    return err_set(err, ENOENT, "no-such-image", "there is no release of image \"%s\" here (get one: vmctl image pull %s)", name, name);
}

int image_release_find(const struct image_store *store, const char *name, const char *version, struct image_release *ret_release,
                       struct err *err)
{
    struct image_release release;
    int r;

    if (streq(version, IMAGE_AUTO))
        return find_newest(store, name, ret_release, err);
    r = image_release_read(store, name, version, &release);
    if (r == -ENOENT)
        return err_set(err, ENOENT, "no-such-image", "there is no image \"%s/%s\" here (get it: vmctl image pull %s/%s)", name, version,
                       name, version);
    if (r < 0)
        return r == -ENOMEM ? r : err_set_errno(err, -r, "unreadable", "%s/%s/%s", store->path, name, version);
    if (release.problem) {
        err_set(err, EINVAL, "damaged", "image %s/%s can't be used: %s (compare it: vmctl image show --verify %s/%s)", name, version,
                release.problem, name, version);
        image_release_clear(&release);
        return -EINVAL;
    }
    *ret_release = release;
    return 0;
}

const struct image_file *image_release_file(const struct image_release *release, const char *role)
{
    for (size_t i = 0; i < release->record.n_files; i++)
        if (streq(release->record.files[i].role, role))
            return &release->record.files[i];
    return NULL;
}

char *image_release_file_path(const struct image_release *release, const char *role)
{
    const struct image_file *file = image_release_file(release, role);
    char *path = NULL;

    return file && str_format(&path, "%s/%s", release->path, file->filename) >= 0 ? path : NULL;
}

/* ---- holding ---- */

int image_release_lock(const struct image_store *store, const char *name, const char *version, int *ret_fd, struct err *err)
{
    auto_fd int fd = open_release(store, name, version), again = -1;
    struct stat held, there;

    if (fd < 0)
        return err_set_errno(err, -fd, "no-such-image", "image %s/%s", name, version);
    /* Exclusively it is held only by who deletes it, or for the instant of finding out whether anybody holds it. */
    while (flock(fd, LOCK_SH) < 0)
        if (errno != EINTR)
            return err_set_errno(err, errno, "no-lock", "image %s/%s", name, version);
    /* What was deleted meanwhile has lost its name first. */
    again = open_release(store, name, version);
    if (again < 0 || fstat(fd, &held) < 0 || fstat(again, &there) < 0 || held.st_ino != there.st_ino || held.st_dev != there.st_dev)
        return err_set(err, ENOENT, "no-such-image", "image %s/%s was just deleted", name, version);
    *ret_fd = steal_fd(&fd);
    return 0;
}
