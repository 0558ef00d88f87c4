#include "lib/images/wire.h"

#include <errno.h>
#include <fcntl.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/images/remove.h"
#include "lib/images/use.h"
#include "proto/launch.h"

json_t *text_or_none(const char *text)
{
    json_t *json = NULL;
    auto_free char *clean = text ? strdup(text) : NULL;

    if (!clean)
        return NULL;
    utf8_clean(clean);
    return json_make_string(clean, &json) < 0 ? NULL : json;
}

json_t *time_or_none(uint64_t real_us)
{
    char buf[CLOCK_TEXT_MAX];

    return real_us ? json_string(clock_format(real_us, buf)) : NULL;
}

int state_vms_open(const char *state_dir, int *ret_fd)
{
    auto_free char *path = NULL;
    int fd;

    if (str_format(&path, "%s/" FOLDER_VMS, state_dir) < 0)
        return -ENOMEM;
    fd = dir_open(AT_FDCWD, path);
    if (fd < 0 && fd != -ENOENT)
        return fd;
    *ret_fd = fd < 0 ? -1 : fd;
    return 0;
}

static json_t *files_to_wire(const struct image_release *release)
{
    json_t *files = json_array();

    for (size_t i = 0; i < release->record.n_files; i++) {
        const struct image_file *file = &release->record.files[i];
        auto_free char *path = NULL;

        if (str_format(&path, "%s/%s", release->path, file->filename) >= 0)
            (void)json_array_append_new(files,
                                        json_pack("{s:s, s:s, s:o, s:I, s:s}", "role", file->role, "filename", file->filename, "path",
                                                  text_or_none(path), "size", (json_int_t)file->size, "sha256", file->sha256));
    }
    return files;
}

static json_t *users_to_wire(const struct image_store *store, int state_vms_fd, const struct image_release *release)
{
    auto_strv struct strv vms = { 0 }, snapshots = { 0 };
    json_t *users = json_array();

    if (image_users(state_vms_fd, release->name, release->version, &vms, NULL) >= 0)
        for (size_t i = 0; i < vms.n; i++)
            (void)json_array_append_new(users, json_string(vms.items[i]));
    if (image_snapshots(state_vms_fd, store, release->name, release->version, &snapshots, NULL) >= 0)
        for (size_t i = 0; i < snapshots.n; i++)
            (void)json_array_append_new(users, json_string(snapshots.items[i]));
    return users;
}

json_t *release_to_wire(const struct image_store *store, int state_vms_fd, const struct image_release *release, const char *newest)
{
    auto_image_release struct image_release found = { 0 };

    if (!newest && image_release_find(store, release->name, IMAGE_AUTO, &found, NULL) >= 0)
        newest = found.version;
    return json_pack("{s:s, s:s, s:s*, s:o*, s:o, s:I, s:I, s:b, s:o*, s:b, s:o, s:b, s:o}", "name", release->name, "version",
                     release->version, "source", release->record.source, "fetched_at", time_or_none(release->record.fetched_us), "path",
                     text_or_none(release->path), "size", (json_int_t)release->size, "disk",
                     (json_int_t)image_disk_usage(store, release->name, release->version), "verified", release->problem ? 0 : 1, "problem",
                     text_or_none(release->problem), "newest", newest && streq_opt(newest, release->version), "in_use_by",
                     users_to_wire(store, state_vms_fd, release), "locked", (int)image_is_locked(store, release->name, release->version),
                     "files", files_to_wire(release));
}

int release_find_to_wire(const struct image_store *store, const char *state_dir, const char *name, const char *version, json_t **ret_json,
                         struct err *err)
{
    auto_image_release struct image_release release = { 0 };
    auto_fd int vms = -1;
    json_t *json;
    int r;

    r = streq(version, IMAGE_AUTO) ? image_release_find(store, name, version, &release, err)
                                   : image_release_read(store, name, version, &release);
    if (r == -ENOENT && !err_is_set(err))
        return image_release_find(store, name, version, &release, err); /* for its words */
    if (r >= 0)
        r = state_vms_open(state_dir, &vms);
    if (r < 0)
        return r;
    json = release_to_wire(store, vms, &release, streq(version, IMAGE_AUTO) ? release.version : NULL);
    if (!json)
        return -ENOMEM;
    *ret_json = json;
    return 0;
}
