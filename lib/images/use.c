#include "lib/images/use.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/images/names.h"
#include "proto/launch.h"
#include "proto/schema.h"

enum { FILE_MODE = 0644 };

#define AT(member) .offset = offsetof(struct image_use, member)
static const struct field use_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "version", FIELD_STRING, FIELD_REQUIRED, AT(version) },
};
const struct record_type image_use_type = {
    .what = "image in use", .size = sizeof(struct image_use), .fields = use_fields, .n_fields = ARRAY_LEN(use_fields)
};

static int check_use(const void *arg, struct err *err)
{
    const struct image_use *use = arg;

    if (!image_name_is_valid(use->name))
        return err_set(err, EINVAL, "bad-record", "/name: expected " IMAGE_NAME_RULE);
    if (!image_version_is_valid(use->version))
        return err_set(err, EINVAL, "bad-record", "/version: expected " IMAGE_NAME_RULE);
    return 0;
}

int image_use_from_json(const json_t *json, struct image_use *ret_use, struct err *err)
{
    return schema_read(&image_use_type, IMAGE_USE_SCHEMA, json, NULL, check_use, ret_use, err);
}

void image_use_clear(struct image_use *use) { record_clear(&image_use_type, use); }

static int open_vm(int state_vms_fd, const char *vm) { return name_is_valid(vm) ? dir_open(state_vms_fd, vm) : -ENOENT; }

int image_use_read(int state_vms_fd, const char *vm, struct image_use *ret_use, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int fd = open_vm(state_vms_fd, vm);
    size_t len;
    int r = fd < 0 ? fd : file_read(fd, FILE_IMAGE_USE, RECORD_MAX, &text, &len);

    if (r < 0)
        return err_set_errno(err, -r, "unreadable", "%s/" FILE_IMAGE_USE, vm);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = image_use_from_json(json, ret_use, err);
    if (r < 0 && r != -ENOMEM)
        err_prefix(err, "%s/" FILE_IMAGE_USE, vm);
    return r;
}

int image_use_write(int state_vms_fd, const char *vm, const char *name, const char *version)
{
    auto_fd int fd = open_vm(state_vms_fd, vm);
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    if (fd < 0)
        return fd;
    if (!image_name_is_valid(name) || !image_version_is_valid(version))
        return -EINVAL;
    json = json_pack("{s:i, s:s, s:s}", "schema", IMAGE_USE_SCHEMA, "name", name, "version", version);
    r = json ? json_format_indented(json, &text, &len) : -ENOMEM;
    return r < 0 ? r : file_write(fd, FILE_IMAGE_USE, text, len, FILE_MODE, FILE_DURABLE);
}

int image_use_remove(int state_vms_fd, const char *vm)
{
    auto_fd int fd = open_vm(state_vms_fd, vm);

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    if (unlinkat(fd, FILE_IMAGE_USE, 0) < 0 && errno != ENOENT)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

static int add_user(int state_vms_fd, const char *vm, const char *name, const char *version, struct strv *vms, bool *unclear)
{
    auto_image_use struct image_use use = { 0 };
    int r = image_use_read(state_vms_fd, vm, &use, NULL);

    if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP)
        return 0;
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        *unclear = true;
    if (r < 0 || (streq_opt(use.name, name) && streq_opt(use.version, version)))
        strv_push(vms, vm);
    return vms->failed ? -ENOMEM : 0;
}

int image_users(int state_vms_fd, const char *name, const char *version, struct strv *ret_vms, bool *ret_unclear)
{
    auto_strv struct strv vms = { 0 };
    auto_fd int fd = -1;
    bool unclear = false;
    struct dirent *entry;
    DIR *dir;
    int r = 0;

    if (state_vms_fd >= 0) {
        fd = dir_open(state_vms_fd, ".");
        dir = fd < 0 ? NULL : fdopendir(fd);
        if (!dir)
            return -errno;
        steal_fd(&fd);
        while (r >= 0 && (errno = 0, entry = readdir(dir)))
            if (name_is_valid(entry->d_name))
                r = add_user(state_vms_fd, entry->d_name, name, version, &vms, &unclear);
        if (r >= 0 && errno)
            r = -errno;
        closedir(dir);
    }
    if (r < 0)
        return r;
    *ret_vms = vms;
    vms = (struct strv){ 0 };
    if (ret_unclear)
        *ret_unclear = unclear;
    return 0;
}
