#include "lib/images/partial.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "proto/launch.h"
#include "proto/schema.h"

enum { FILE_MODE = 0644, FOLDER_MODE = 0755 };

#define FILE_PARTIAL "partial.json"
#define AT(member) .offset = offsetof(struct image_partial, member)
static const struct field partial_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "version", FIELD_STRING, FIELD_REQUIRED, AT(version) },
    { "begun_at", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(begun_us), .codec = &codec_time },
    { "problem", FIELD_STRING, FIELD_OMIT_EMPTY, AT(problem) },
};
const struct record_type image_partial_type = {
    .what = "unfinished pull", .size = sizeof(struct image_partial), .fields = partial_fields, .n_fields = ARRAY_LEN(partial_fields)
};

static int check_partial(const void *arg, struct err *err)
{
    const struct image_partial *partial = arg;

    if (!image_name_is_valid(partial->name))
        return err_set(err, EINVAL, "bad-record", "/name: expected " IMAGE_NAME_RULE);
    if (!image_version_is_valid(partial->version))
        return err_set(err, EINVAL, "bad-record", "/version: expected " IMAGE_NAME_RULE);
    return 0;
}

int image_partial_from_json(const json_t *json, struct image_partial *ret_partial, struct err *err)
{
    return schema_read(&image_partial_type, PARTIAL_SCHEMA, json, NULL, check_partial, ret_partial, err);
}

void image_partial_clear(struct image_partial *partial) { record_clear(&image_partial_type, partial); }

void image_partials_clear(struct image_partials *partials)
{
    for (size_t i = 0; i < partials->n; i++)
        image_partial_clear(&partials->items[i]);
    free(partials->items);
    *partials = (struct image_partials){ 0 };
}

int partial_read(int folder_fd, struct image_partial *ret_partial)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(folder_fd, FILE_PARTIAL, RECORD_MAX, &text, &len);

    if (r >= 0)
        r = json_parse(text, len, &json, NULL);
    return r < 0 ? r : image_partial_from_json(json, ret_partial, NULL);
}

int partial_write(int folder_fd, const struct image_partial *partial)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = record_emit(&image_partial_type, partial, &json);

    if (r >= 0)
        r = json_format_indented(json, &text, &len);
    return r < 0 ? r : file_write(folder_fd, FILE_PARTIAL, text, len, FILE_MODE, FILE_DURABLE);
}

int partial_forget(int folder_fd) { return unlinkat(folder_fd, FILE_PARTIAL, 0) < 0 && errno != ENOENT ? -errno : 0; }

int partial_folder_name(const char *version, char **ret_name) { return str_format(ret_name, PARTIAL_PREFIX "%s", version); }

/* The lock of a folder that still has its name: one who discards it takes the lock first. */
static int open_locked(int name_fd, const char *folder)
{
    auto_fd int fd = dir_open(name_fd, folder);
    struct stat st;

    if (fd < 0)
        return fd;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -errno;
    if (fstat(fd, &st) < 0)
        return -errno;
    return st.st_nlink == 0 ? -ENOENT : steal_fd(&fd);
}

int partial_open(int name_fd, const char *version)
{
    auto_free char *folder = NULL;
    int r = partial_folder_name(version, &folder);

    if (r < 0)
        return r;
    do {
        if (mkdirat(name_fd, folder, FOLDER_MODE) < 0 && errno != EEXIST)
            return -errno;
        r = open_locked(name_fd, folder);
    } while (r == -ENOENT);
    return r;
}

int image_partial_discard(const struct image_store *store, const char *name, const char *version)
{
    auto_fd int fd = image_name_is_valid(name) && image_version_is_valid(version) ? dir_open(store->fd, name) : -ENOENT, locked = -1;
    auto_free char *folder = NULL;
    int r;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    r = partial_folder_name(version, &folder);
    if (r < 0)
        return r;
    locked = open_locked(fd, folder);
    if (locked < 0)
        return locked == -ENOENT ? 0 : locked;
    return dir_remove_tree(fd, folder);
}

int image_partial_remove(const struct image_store *store, const char *name, const char *version)
{
    auto_fd int fd = image_name_is_valid(name) && image_version_is_valid(version) ? dir_open(store->fd, name) : -ENOENT;
    auto_free char *folder = NULL;
    int r;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    r = partial_folder_name(version, &folder);
    return r < 0 ? r : dir_remove_tree(fd, folder);
}

/* ---- all of them ---- */

static int add(struct image_partials *list, int name_fd, const char *folder, const char *name)
{
    auto_fd int fd = dir_open(name_fd, folder);
    struct image_partial partial, *longer;
    int r = fd < 0 ? fd : partial_read(fd, &partial);

    if (r < 0)
        return r == -ENOMEM ? r : 0;
    if (!streq(partial.name, name) || !streq(partial.version, folder + strlen(PARTIAL_PREFIX))) {
        image_partial_clear(&partial);
        return 0;
    }
    longer = reallocarray(list->items, list->n + 1, sizeof(*longer));
    if (!longer) {
        image_partial_clear(&partial);
        return -ENOMEM;
    }
    list->items = longer;
    list->items[list->n++] = partial;
    return 0;
}

static int add_name(struct image_partials *list, int store_fd, const char *name)
{
    auto_fd int fd = dir_open(store_fd, name), again = -1;
    const struct dirent *entry;
    DIR *dir;
    int r = 0;

    if (fd < 0)
        return 0;
    again = dir_open(fd, ".");
    dir = again < 0 ? NULL : fdopendir(again);
    if (!dir)
        return 0;
    steal_fd(&again);
    while (r >= 0 && (entry = readdir(dir)))
        if (has_prefix(entry->d_name, PARTIAL_PREFIX))
            r = add(list, fd, entry->d_name, name);
    closedir(dir);
    return r;
}

int image_partials_list(const struct image_store *store, const char *name, struct image_partials *ret_partials)
{
    auto_image_partials struct image_partials list = { 0 };
    auto_fd int fd = dir_open(store->fd, ".");
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    int r = 0;

    if (!dir)
        return fd < 0 ? fd : -errno;
    steal_fd(&fd);
    while (r >= 0 && (entry = readdir(dir)))
        if (image_name_is_valid(entry->d_name) && (!name || streq(name, entry->d_name)))
            r = add_name(&list, store->fd, entry->d_name);
    closedir(dir);
    if (r < 0)
        return r;
    *ret_partials = list;
    list = (struct image_partials){ 0 };
    return 0;
}
