#include "lib/manager/spec_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/launch.h"
#include "proto/states.h"

/* Times of files are those of the last tick of the kernel's clock, on some file systems of the last second. */
enum { SETTLED_US = 2 * 1000 * 1000 };

bool spec_file_is(const char *file)
{
    size_t len = strlen(file), suffix = strlen(SPEC_SUFFIX);

    return file[0] != '.' && len > suffix && streq(file + len - suffix, SPEC_SUFFIX);
}

int specs_read(int specs_fd, const char *file, json_t **ret_json, struct err *err)
{
    auto_free char *text = NULL;
    auto_fd int fd = -1;
    struct stat st;
    size_t len;
    int r;

    /* An operator may well keep specs elsewhere and link them here. */
    fd = openat(specs_fd, file, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set_errno(err, errno, errno == ENOENT ? "no-spec" : "bad-spec", "spec %s", file);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "bad-spec", "spec %s is not a file", file);
    r = fd_read_all(fd, RECORD_MAX, &text, &len);
    if (r < 0)
        return err_set_errno(err, -r, "bad-spec", "spec %s", file);
    r = json_parse(text, len, ret_json, err);
    if (r < 0)
        err_prefix(err, "%s", file);
    return r;
}

bool spec_json_enabled(const json_t *spec) { return !json_is_false(json_object_get(spec, "enabled")); }

uint8_t spec_json_policy(const json_t *spec)
{
    const char *policy = json_string_value(json_object_get(json_object_get(spec, "restart"), "policy"));
    int p = policy ? enum_from_string(&restart_policy_names, policy) : RESTART_ON_FAILURE;

    return (uint8_t)(p < 0 ? RESTART_ON_FAILURE : p);
}

static bool same_times(const struct timespec *a, const struct timespec *b) { return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec; }

static bool same_file(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && same_times(&a->st_mtim, &b->st_mtim) &&
           same_times(&a->st_ctim, &b->st_ctim);
}

static bool is_settled(const struct stat *st)
{
    uint64_t changed = (uint64_t)st->st_ctim.tv_sec * 1000000 + (uint64_t)st->st_ctim.tv_nsec / 1000;

    return changed + SETTLED_US < clock_real_us();
}

static void entry_clear(struct spec_entry *e)
{
    free(e->file);
    free(e->name);
    free(e->error);
    json_decref(e->json);
}

static int read_entry(int fd, const struct spec_entry *before, struct spec_entry *e)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    const char *name;
    int r = specs_read(fd, e->file, &json, &err);

    if (r == -ENOMEM)
        return r;
    name = json_string_value(json_object_get(json, "name"));
    if (r >= 0 && (!name || !name_is_valid(name)))
        r = err_set(&err, EINVAL, "bad-spec", "%s: /name: expected " NAME_RULE, e->file);
    if (r >= 0)
        r = json_digest(json, e->digest);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return str_set(&e->error, err.text) < 0 || str_set(&e->name, before ? before->name : NULL) < 0 ? -ENOMEM : 0;
    e->enabled = spec_json_enabled(json);
    e->policy = spec_json_policy(json);
    e->json = steal_ptr(&json);
    return str_set(&e->name, name);
}

static int copy_entry(const struct spec_entry *before, struct spec_entry *e)
{
    memcpy(e->digest, before->digest, sizeof(e->digest));
    e->enabled = before->enabled;
    e->policy = before->policy;
    return str_set(&e->name, before->name) < 0 || str_set(&e->error, before->error) < 0 ? -ENOMEM : 0;
}

/* 0, 1: it is gone by now. */
static int fill_entry(int fd, const struct spec_folder *folder, struct spec_entry *e)
{
    const struct spec_entry *before = folder ? spec_folder_find(folder, e->file) : NULL;

    if (fstatat(fd, e->file, &e->st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 1 : -errno;
    e->link = S_ISLNK(e->st.st_mode);
    if (e->link && fstatat(fd, e->file, &e->st, 0) < 0)
        return read_entry(fd, before, e); /* it is there, and can't be read */
    e->settled = is_settled(&e->st);
    if (before && before->settled && same_file(&before->st, &e->st))
        return copy_entry(before, e);
    return read_entry(fd, before, e);
}

static int add_entry(int fd, const struct spec_folder *before, const char *file, struct spec_folder *folder)
{
    struct spec_entry *items, e = { 0 };
    int r;

    items = realloc(folder->items, (folder->n + 1) * sizeof(*items));
    if (!items)
        return -ENOMEM;
    folder->items = items;
    r = str_set(&e.file, file);
    if (r >= 0)
        r = fill_entry(fd, before, &e);
    if (r != 0) {
        entry_clear(&e);
        return r < 0 ? r : 0;
    }
    items[folder->n++] = e;
    return 0;
}

static int by_file(const void *a, const void *b)
{
    const struct spec_entry *left = a, *right = b;

    return strcmp(left->file, right->file);
}

static int read_names(int fd, const struct spec_folder *before, struct spec_folder *folder)
{
    int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0; /* an offset of its own */
    const struct dirent *entry;
    DIR *dir = copy < 0 ? NULL : fdopendir(copy);

    if (!dir) {
        r = -errno;
        fd_close(copy);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        if (spec_file_is(entry->d_name))
            r = add_entry(fd, before, entry->d_name, folder);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

int spec_folder_scan(int fd, const struct spec_folder *before, struct spec_folder *ret_folder, struct err *err)
{
    auto_spec_folder struct spec_folder folder = { 0 };
    struct stat st;
    int r = read_names(fd, before, &folder);

    /* One that was removed reads as an empty one: readdir(3) takes the kernel's ENOENT for the end. */
    if (r >= 0)
        r = fstat(fd, &st) < 0 ? -errno : st.st_nlink == 0 ? -ENOENT : 0;
    if (r < 0)
        return err_set_errno(err, -r, "no-specs", "can't read the folder of specs");
    if (folder.n > 1)
        qsort(folder.items, folder.n, sizeof(*folder.items), by_file);
    folder.dev = st.st_dev;
    folder.ino = st.st_ino;
    *ret_folder = folder;
    folder = (struct spec_folder){ 0 };
    return 0;
}

void spec_folder_clear(struct spec_folder *folder)
{
    for (size_t i = 0; i < folder->n; i++)
        entry_clear(&folder->items[i]);
    free(folder->items);
    *folder = (struct spec_folder){ 0 };
}

const struct spec_entry *spec_folder_find(const struct spec_folder *folder, const char *file)
{
    struct spec_entry key = { .file = (char *)(uintptr_t)file };

    return folder->n ? bsearch(&key, folder->items, folder->n, sizeof(*folder->items), by_file) : NULL;
}
