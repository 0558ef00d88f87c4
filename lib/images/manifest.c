#include "lib/images/manifest.h"

#include <errno.h>

#include "lib/base/record.h"
#include "lib/images/names.h"
#include "lib/images/release.h"

#define PACKED_SUFFIX ".zst"

#define AT(member) .offset = offsetof(struct manifest_file, member)
static const struct field file_fields[] = {
    { "bucket", FIELD_STRING, FIELD_OMIT_EMPTY, AT(bucket) },
    { "prefix", FIELD_STRING, FIELD_OMIT_EMPTY, AT(prefix) },
    { "filename", FIELD_STRING, FIELD_REQUIRED, AT(filename) },
    { "url", FIELD_STRING, FIELD_OMIT_EMPTY, AT(url) },
    { "sha256", FIELD_STRING, FIELD_REQUIRED, AT(sha256) },
    { "size", FIELD_UINT, FIELD_OMIT_EMPTY, AT(size), .max = INT64_MAX },
    { "unpacked_sha256", FIELD_STRING, FIELD_OMIT_EMPTY, AT(unpacked_sha256) },
    { "unpacked_size", FIELD_UINT, FIELD_OMIT_EMPTY, AT(unpacked_size), .max = INT64_MAX },
};
static const struct record_type file_type = {
    .what = "file", .size = sizeof(struct manifest_file), .fields = file_fields, .n_fields = ARRAY_LEN(file_fields)
};

void manifest_clear(struct manifest *manifest)
{
    for (size_t i = 0; i < manifest->n_files; i++) {
        free(manifest->files[i].role);
        record_clear(&file_type, &manifest->files[i]);
    }
    free(manifest->files);
    *manifest = (struct manifest){ 0 };
}

bool manifest_file_is_packed(const struct manifest_file *file)
{
    size_t len = strlen(file->filename), suffix = strlen(PACKED_SUFFIX);

    return len > suffix && streq(file->filename + len - suffix, PACKED_SUFFIX);
}

char *manifest_file_stored_name(const struct manifest_file *file)
{
    return strndup(file->filename, strlen(file->filename) - (manifest_file_is_packed(file) ? strlen(PACKED_SUFFIX) : 0));
}

bool manifest_file_is_repeated(const struct manifest *manifest, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (streq(manifest->files[k].filename, manifest->files[i].filename))
            return true;
    return false;
}

static int bad(struct err *err, const char *role, const char *what) { return err_set(err, EINVAL, "bad-manifest", "%s: %s", role, what); }

/* Publishers write hex digits in either case. */
static void lower(char *s)
{
    for (; s && *s; s++)
        *s = (char)tolower((unsigned char)*s);
}

/* What is in the folder of a release beside its files. */
static bool is_reserved(const char *name) { return streq(name, FILE_IMAGE) || streq(name, FILE_MANIFEST) || streq(name, FILE_SIGNATURE); }

static int check_file(struct manifest_file *file, struct err *err)
{
    auto_free char *stored = manifest_file_stored_name(file);

    if (!stored)
        return -ENOMEM;
    lower(file->sha256);
    lower(file->unpacked_sha256);
    if (!image_name_is_valid(file->filename) || is_reserved(stored))
        return bad(err, file->role, "its filename can't be one (" IMAGE_NAME_RULE ")");
    if (!image_sha256_is_valid(file->sha256))
        return bad(err, file->role, "its sha256 isn't 64 hex digits");
    if (file->unpacked_sha256 && !image_sha256_is_valid(file->unpacked_sha256))
        return bad(err, file->role, "its unpacked_sha256 isn't 64 hex digits");
    return 0;
}

/* Two roles may have one file; two files may not have one name. */
static int check_names(const struct manifest *manifest, struct err *err)
{
    for (size_t i = 0; i < manifest->n_files; i++) {
        for (size_t k = 0; k < i; k++) {
            const struct manifest_file *a = &manifest->files[k], *b = &manifest->files[i];
            auto_free char *stored_a = manifest_file_stored_name(a), *stored_b = manifest_file_stored_name(b);

            if (!stored_a || !stored_b)
                return -ENOMEM;
            if (streq(stored_a, stored_b) && !(streq(a->filename, b->filename) && streq(a->sha256, b->sha256)))
                return err_set(err, EINVAL, "bad-manifest", "%s and %s are two files of one name", a->role, b->role);
        }
    }
    return 0;
}

static int add_file(struct manifest *manifest, const char *role, const json_t *value, struct err *err)
{
    struct manifest_file *file = &manifest->files[manifest->n_files];
    struct err inner = ERR_INIT;
    int r;

    if (!image_role_is_valid(role))
        return err_set(err, EINVAL, "bad-manifest", "\"%.64s\" is no role (small letters, digits, '_')", role);
    manifest->n_files++;
    if (str_set(&file->role, role) < 0)
        return -ENOMEM;
    r = record_parse(&file_type, value, 0, file, &inner);
    if (r == -EINVAL)
        return err_set(err, EINVAL, "bad-manifest", "%s%s%s", role, inner.text[0] == '/' ? "" : ": ", inner.text);
    return r < 0 ? r : check_file(file, err);
}

int manifest_from_json(const json_t *roles, struct manifest *ret_manifest, struct err *err)
{
    auto_manifest struct manifest manifest = { 0 };
    const char *role;
    json_t *value;
    int r = 0;

    if (!json_is_object(roles))
        return err_set(err, EINVAL, "bad-manifest", "it isn't an object of files by their roles");
    manifest.files = calloc(IMAGE_FILES_MAX, sizeof(*manifest.files));
    if (!manifest.files)
        return -ENOMEM;
    json_object_foreach ((json_t *)(uintptr_t)roles, role, value) {
        if (!json_is_object(value))
            continue;
        if (manifest.n_files == IMAGE_FILES_MAX)
            return err_set(err, EINVAL, "bad-manifest", "it has more than %d files", (int)IMAGE_FILES_MAX);
        r = add_file(&manifest, role, value, err);
        if (r < 0)
            return r;
    }
    if (manifest.n_files == 0)
        return err_set(err, EINVAL, "bad-manifest", "it names no file");
    r = check_names(&manifest, err);
    if (r < 0)
        return r;
    *ret_manifest = manifest;
    manifest = (struct manifest){ 0 };
    return 0;
}

int manifest_parse(const char *text, size_t len, struct manifest *ret_manifest, struct err *err)
{
    auto_json json_t *json = NULL;
    int r = json_parse(text, len, &json, err);

    if (r == -EINVAL && err)
        (void)snprintf(err->id, sizeof(err->id), "bad-manifest");
    return r < 0 ? r : manifest_from_json(json, ret_manifest, err);
}

/* ---- the index ---- */

static int check_version(const json_t *version, size_t i, struct err *err)
{
    const char *name = json_string_value(json_object_get(version, "version"));

    if (!name || !image_version_is_valid(name))
        return err_set(err, EINVAL, "bad-manifest", "/versions/%zu/version: expected a name (" IMAGE_NAME_RULE ")", i);
    if (!json_is_object(json_object_get(version, "files")))
        return err_set(err, EINVAL, "bad-manifest", "/versions/%zu/files: expected an object of files by their roles", i);
    return 0;
}

int index_parse(const char *text, size_t len, json_t **ret_index, struct err *err)
{
    auto_json json_t *json = NULL;
    const json_t *versions, *version, *schema;
    size_t i;
    int r = json_parse(text, len, &json, err);

    if (r == -EINVAL && err)
        (void)snprintf(err->id, sizeof(err->id), "bad-manifest");
    if (r < 0)
        return r;
    schema = json_object_get(json, "schema");
    if (!json_is_integer(schema) || json_integer_value(schema) != INDEX_SCHEMA)
        return err_set(err, EINVAL, "bad-manifest", "/schema: expected %d", (int)INDEX_SCHEMA);
    versions = json_object_get(json, "versions");
    if (!json_is_array(versions))
        return err_set(err, EINVAL, "bad-manifest", "/versions: expected an array");
    json_array_foreach (versions, i, version) {
        r = check_version(version, i, err);
        if (r < 0)
            return r;
    }
    if (json_object_get(json, "latest") && (!index_newest(json) || !index_files(json, index_newest(json))))
        return err_set(err, EINVAL, "bad-manifest", "/latest: expected one of the versions");
    *ret_index = steal_ptr(&json);
    return 0;
}

const char *index_newest(const json_t *index)
{
    const json_t *latest = json_object_get(index, "latest");

    if (latest && !json_is_null(latest))
        return json_string_value(latest);
    return json_string_value(json_object_get(json_array_get(json_object_get(index, "versions"), 0), "version"));
}

const json_t *index_files(const json_t *index, const char *version)
{
    const json_t *one;
    size_t i;

    json_array_foreach (json_object_get(index, "versions"), i, one)
        if (streq(json_string_value(json_object_get(one, "version")), version))
            return json_object_get(one, "files");
    return NULL;
}
