#include "lib/images/release.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/images/names.h"
#include "proto/launch.h"
#include "proto/schema.h"

enum { FILE_MODE = 0644 };

#define AT(member) .offset = offsetof(struct image_file, member)
static const struct field file_fields[] = {
    { "role", FIELD_STRING, FIELD_REQUIRED, AT(role) },
    { "filename", FIELD_STRING, FIELD_REQUIRED, AT(filename) },
    { "size", FIELD_UINT, FIELD_REQUIRED, AT(size) },
    { "sha256", FIELD_STRING, FIELD_REQUIRED, AT(sha256) },
    { "packed_sha256", FIELD_STRING, FIELD_OMIT_EMPTY, AT(packed_sha256) },
    { "mtime_ns", FIELD_UINT, FIELD_REQUIRED, AT(mtime_ns) },
    { "inode", FIELD_UINT, FIELD_REQUIRED, AT(inode) },
};
#undef AT
static const struct record_type file_type = {
    .what = "file", .size = sizeof(struct image_file), .fields = file_fields, .n_fields = ARRAY_LEN(file_fields)
};

#define AT(member) .offset = offsetof(struct image_record, member)
static const struct field record_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "version", FIELD_STRING, FIELD_REQUIRED, AT(version) },
    { "source", FIELD_STRING, FIELD_OMIT_EMPTY, AT(source) },
    { "fetched_at", FIELD_CUSTOM, 0, AT(fetched_us), .codec = &codec_time },
    { "files", FIELD_ARRAY, FIELD_REQUIRED, AT(files), .count_offset = offsetof(struct image_record, n_files), .type = &file_type },
};
#undef AT
const struct record_type image_record_type = {
    .what = "image", .size = sizeof(struct image_record), .fields = record_fields, .n_fields = ARRAY_LEN(record_fields)
};

static int check_record(const void *arg, struct err *err)
{
    const struct image_record *record = arg;

    if (!image_name_is_valid(record->name))
        return err_set(err, EINVAL, "bad-record", "/name: expected " IMAGE_NAME_RULE);
    if (!image_version_is_valid(record->version))
        return err_set(err, EINVAL, "bad-record", "/version: expected " IMAGE_NAME_RULE);
    if (record->n_files > IMAGE_FILES_MAX)
        return err_set(err, EINVAL, "bad-record", "/files: %zu are more than %d", record->n_files, (int)IMAGE_FILES_MAX);
    for (size_t i = 0; i < record->n_files; i++) {
        const struct image_file *file = &record->files[i];

        if (!image_role_is_valid(file->role))
            return err_set(err, EINVAL, "bad-record", "/files/%zu/role: \"%s\" is no role", i, file->role);
        if (!image_name_is_valid(file->filename))
            return err_set(err, EINVAL, "bad-record", "/files/%zu/filename: expected " IMAGE_NAME_RULE, i);
        if (!image_sha256_is_valid(file->sha256) || (file->packed_sha256 && !image_sha256_is_valid(file->packed_sha256)))
            return err_set(err, EINVAL, "bad-record", "/files/%zu/sha256: expected 64 hex digits in lower case", i);
    }
    return 0;
}

int image_record_from_json(const json_t *json, struct image_record *ret_record, struct err *err)
{
    return schema_read(&image_record_type, IMAGE_SCHEMA, json, NULL, check_record, ret_record, err);
}

void image_record_clear(struct image_record *record) { record_clear(&image_record_type, record); }

int image_record_read(int folder_fd, struct image_record *ret_record, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(folder_fd, FILE_IMAGE, RECORD_MAX, &text, &len);
    if (r < 0)
        return err_set_errno(err, -r, "unreadable", FILE_IMAGE);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = image_record_from_json(json, ret_record, err);
    if (r < 0 && r != -ENOMEM)
        err_prefix(err, FILE_IMAGE);
    return r;
}

int image_record_write(int folder_fd, const struct image_record *record)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = record_emit(&image_record_type, record, &json);
    if (r >= 0)
        r = json_format_indented(json, &text, &len);
    return r < 0 ? r : file_write(folder_fd, FILE_IMAGE, text, len, FILE_MODE, FILE_DURABLE);
}

static uint64_t mtime_ns(const struct stat *st) { return (uint64_t)st->st_mtim.tv_sec * 1000000000 + (uint64_t)st->st_mtim.tv_nsec; }

int image_file_note(int folder_fd, struct image_file *file)
{
    struct stat st;

    if (fstatat(folder_fd, file->filename, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    file->size = (uint64_t)st.st_size;
    file->mtime_ns = mtime_ns(&st);
    file->inode = st.st_ino;
    return 0;
}

int image_file_check(int folder_fd, const struct image_file *file, struct err *err)
{
    struct stat st;

    if (fstatat(folder_fd, file->filename, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set_errno(err, errno, "damaged", "%s", file->filename);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "damaged", "%s is no regular file", file->filename);
    if ((uint64_t)st.st_size != file->size)
        return err_set(err, EINVAL, "damaged", "%s has %lld bytes, expected %llu", file->filename, (long long)st.st_size,
                       (unsigned long long)file->size);
    if (mtime_ns(&st) != file->mtime_ns || st.st_ino != file->inode)
        return err_set(err, EINVAL, "damaged", "%s was changed or replaced since it was verified", file->filename);
    return 0;
}
