#include "lib/images/config.h"

#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/images/base64.h"
#include "lib/images/names.h"
#include "lib/images/template.h"

enum {
    CONFIG_MAX = 64 * 1024,
    RATE_MIN = 16 * 1024,
    PARALLEL_MAX = 16,
    RETRIES_MAX = 1000,
    KEEP_MAX = 1000,
    KEY_BYTES = 42,
    TIME_MIN_MS = 1,
};

static const char *const config_files[] = { "holdfast.json", "config.json" };

static const char *const kinds[] = {
    [IMAGE_SOURCE_GITHUB] = "github-releases",
    [IMAGE_SOURCE_INDEX] = "https-index",
    [IMAGE_SOURCE_FOLDER] = "folder",
    [IMAGE_SOURCE_COMMAND] = "command",
};
const struct enum_names image_source_kind_names = { .what = "kind of source", .names = kinds, .n = ARRAY_LEN(kinds) };
_Static_assert(ARRAY_LEN(kinds) == IMAGE_SOURCE_KIND_COUNT, "a name for each");

#define AT(member) .offset = offsetof(struct image_source, member)
static const struct field source_fields[] = {
    { "kind", FIELD_ENUM, FIELD_REQUIRED, AT(kind), .names = &image_source_kind_names },
    { "url", FIELD_STRING, FIELD_OMIT_EMPTY, AT(url) },
    { "file_url", FIELD_STRING, FIELD_OMIT_EMPTY, AT(file_url) },
    { "hosts", FIELD_STRV, FIELD_OMIT_EMPTY, AT(hosts) },
    { "public_key", FIELD_STRING, FIELD_OMIT_EMPTY, AT(public_key) },
    { "path", FIELD_STRING, FIELD_OMIT_EMPTY, AT(path) },
    { "command", FIELD_STRV, FIELD_OMIT_EMPTY, AT(command) },
    { "timeout", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(timeout_ms), .codec = &codec_duration },
};
#undef AT
static const struct record_type source_type = {
    .what = "source", .size = sizeof(struct image_source), .fields = source_fields, .n_fields = ARRAY_LEN(source_fields)
};

static void sources_clear(void *slot)
{
    struct image_sources *sources = slot;

    for (size_t i = 0; i < sources->n; i++) {
        free(sources->items[i].name);
        record_clear(&source_type, &sources->items[i]);
    }
    free(sources->items);
    *sources = (struct image_sources){ 0 };
}

static int parse_source(const char *name, const json_t *json, struct image_source *source, struct err *err)
{
    struct err inner = ERR_INIT;
    int r;

    if (!image_name_is_valid(name))
        return err_set(err, EINVAL, "bad-record", "\"%s\" is no name of an image (" IMAGE_NAME_RULE ")", name);
    if (str_set(&source->name, name) < 0)
        return -ENOMEM;
    r = record_parse(&source_type, json, RECORD_STRICT, source, &inner);
    if (r == -EINVAL)
        return err_set(err, EINVAL, "bad-record", "%s%s%s", name, inner.text[0] == '/' ? "" : ": ", inner.text);
    return r;
}

static int sources_parse(const json_t *value, void *slot, struct err *err)
{
    struct image_sources *sources = slot;
    const char *name;
    json_t *json;

    if (!json_is_object(value))
        return record_expected(err, value, "an object of sources by the image's name");
    sources_clear(sources);
    sources->items = calloc(json_object_size(value) + 1, sizeof(*sources->items));
    if (!sources->items)
        return -ENOMEM;
    /* jansson takes it for a change when one looks. */
    json_object_foreach ((json_t *)(uintptr_t)value, name, json) {
        int r = parse_source(name, json, &sources->items[sources->n++], err);

        if (r < 0)
            return r;
    }
    return 0;
}

static json_t *sources_emit(const void *slot)
{
    const struct image_sources *sources = slot;
    auto_json json_t *all = json_object();

    for (size_t i = 0; all && i < sources->n; i++) {
        json_t *one = NULL;

        if (record_emit(&source_type, &sources->items[i], &one) < 0 || json_object_set_new(all, sources->items[i].name, one) < 0)
            return NULL;
    }
    return steal_ptr(&all);
}

static const struct field_codec codec_sources = { .parse = sources_parse, .emit = sources_emit, .clear = sources_clear };

#define AT(member) .offset = offsetof(struct images_config, member)
static const struct field config_fields[] = {
    { "keep_versions", FIELD_UINT, 0, AT(keep_versions), .min = 1, .max = KEEP_MAX },
    { "rate_limit", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(rate_limit), .codec = &codec_size },
    { "proxy", FIELD_STRING, FIELD_OMIT_EMPTY, AT(proxy) },
    { "ca_file", FIELD_STRING, FIELD_OMIT_EMPTY, AT(ca_file) },
    { "parallel", FIELD_UINT, 0, AT(parallel), .min = 1, .max = PARALLEL_MAX },
    { "retries", FIELD_UINT, 0, AT(retries), .max = RETRIES_MAX },
    { "retry_delay", FIELD_CUSTOM, 0, AT(retry_delay_ms), .codec = &codec_duration },
    { "connect_timeout", FIELD_CUSTOM, 0, AT(connect_timeout_ms), .codec = &codec_duration },
    { "stall_timeout", FIELD_CUSTOM, 0, AT(stall_timeout_ms), .codec = &codec_duration },
    { "check_interval", FIELD_CUSTOM, 0, AT(check_interval_ms), .codec = &codec_duration },
    { "margin", FIELD_CUSTOM, 0, AT(margin), .codec = &codec_size },
    { "sources", FIELD_CUSTOM, 0, AT(sources), .codec = &codec_sources },
};
#undef AT
const struct record_type images_config_type = {
    .what = "images", .size = sizeof(struct images_config), .fields = config_fields, .n_fields = ARRAY_LEN(config_fields)
};

/* ---- what the tables can't say ---- */

static bool is_url(const char *s) { return s && (has_prefix(s, "https://") || has_prefix(s, "http://")) && strlen(strstr(s, "//")) > 2; }

static int wrong(struct err *err, const struct image_source *source, const char *key, const char *what)
{
    return err_set(err, EINVAL, "bad-config", "/images/sources/%s/%s: %s", source->name, key, what);
}

static int check_file_url(const struct image_source *source, struct err *err)
{
    static const struct template_value values[] = {
        { "bucket", "" }, { "prefix", "" }, { "filename", "" }, { "version", "" }, { "name", "" }
    };
    auto_free char *text = NULL;
    int r;

    if (!source->file_url)
        return source->command ? 0 : wrong(err, source, "file_url", "needed, or a command that fetches the files");
    if (!is_url(source->file_url))
        return wrong(err, source, "file_url", "expected a https:// URL");
    r = template_expand(source->file_url, values, ARRAY_LEN(values), true, &text, err);
    if (r == -EINVAL)
        err_prefix(err, "/images/sources/%s/file_url", source->name);
    return r;
}

static int check_command(const struct image_source *source, bool needed, struct err *err)
{
    static const struct template_value values[] = { { "action", "" }, { "name", "" },   { "version", "" },  { "role", "" },
                                                    { "bucket", "" }, { "prefix", "" }, { "filename", "" }, { "offset", "" } };

    if (!source->command || !source->command[0])
        return needed ? wrong(err, source, "command", "expected the words of a command") : 0;
    if (source->command[0][0] != '/')
        return wrong(err, source, "command", "its first word must be an absolute path");
    for (char **word = source->command; *word; word++) {
        auto_free char *text = NULL;
        int r = template_expand(*word, values, ARRAY_LEN(values), false, &text, err);

        if (r == -EINVAL)
            err_prefix(err, "/images/sources/%s/command", source->name);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_source(const struct image_source *source, struct err *err)
{
    uint8_t key[KEY_BYTES];

    if (source->public_key &&
        (base64_decode(source->public_key, strlen(source->public_key), key, sizeof(key)) < 0 || key[0] != 'E' || key[1] != 'd'))
        return wrong(err, source, "public_key", "expected the second line of a minisign public key");
    switch ((enum image_source_kind)source->kind) {
    case IMAGE_SOURCE_GITHUB:
        if (!is_url(source->url))
            return wrong(err, source, "url", "expected a https:// URL");
        if (check_command(source, false, err) < 0)
            return -EINVAL;
        return check_file_url(source, err);
    case IMAGE_SOURCE_INDEX:
        return is_url(source->url) ? 0 : wrong(err, source, "url", "expected the https:// URL of the index");
    case IMAGE_SOURCE_FOLDER:
        return source->path && source->path[0] == '/' ? 0 : wrong(err, source, "path", "expected an absolute path");
    case IMAGE_SOURCE_COMMAND:
        return check_command(source, true, err);
    case IMAGE_SOURCE_KIND_COUNT:
        break;
    }
    return -EINVAL;
}

int images_config_check(const struct images_config *config, struct err *err)
{
    const struct {
        const char *key;
        uint64_t ms;
    } times[] = {
        { "retry_delay", config->retry_delay_ms },
        { "connect_timeout", config->connect_timeout_ms },
        { "stall_timeout", config->stall_timeout_ms },
        { "check_interval", config->check_interval_ms },
    };

    for (size_t i = 0; i < ARRAY_LEN(times); i++)
        if (times[i].ms < TIME_MIN_MS || times[i].ms > INT32_MAX)
            return err_set(err, EINVAL, "bad-config", "/images/%s: expected a time of 1ms to 24 days", times[i].key);
    if (config->rate_limit && config->rate_limit < RATE_MIN)
        return err_set(err, EINVAL, "bad-config", "/images/rate_limit: expected at least 16K bytes a second");
    if (config->ca_file && config->ca_file[0] != '/')
        return err_set(err, EINVAL, "bad-config", "/images/ca_file: expected an absolute path");
    for (size_t i = 0; i < config->sources.n; i++) {
        int r = check_source(&config->sources.items[i], err);

        if (r < 0)
            return r;
    }
    return 0;
}

/* ---- the file ---- */

static int parse(const char *text, size_t len, struct images_config *config, char **ret_group, struct err *err)
{
    auto_json json_t *json = NULL;
    const json_t *group, *images;
    int r = json_parse(text, len, &json, err);

    if (r < 0)
        return r;
    images = json_object_get(json, "images");
    group = json_object_get(json, "group");
    if (images && !json_is_null(images)) {
        r = record_parse(&images_config_type, images, RECORD_STRICT, config, err);
        if (r == -EINVAL)
            err_prefix(err, "in /images");
        if (r >= 0)
            r = images_config_check(config, err);
    }
    return r < 0 || !ret_group ? r : str_set(ret_group, json_string_value(group));
}

int images_config_read(const char *config_dir, struct images_config *ret_config, char **ret_group, struct err *err)
{
    auto_images_config struct images_config config = IMAGES_CONFIG_DEFAULTS;
    auto_fd int fd = open(config_dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    auto_free char *text = NULL;
    int r = fd < 0 ? -errno : -ENOENT;
    const char *file = config_files[0];
    size_t len;

    for (size_t i = 0; fd >= 0 && r == -ENOENT && i < ARRAY_LEN(config_files); i++) {
        file = config_files[i];
        r = file_read(fd, file, CONFIG_MAX, &text, &len);
    }
    if (r < 0 && r != -ENOENT)
        return err_set_errno(err, -r, "bad-config", "can't read %s/%s", config_dir, file);
    if (r >= 0) {
        r = parse(text, len, &config, ret_group, err);
        if (r < 0) {
            err_prefix(err, "%s/%s", config_dir, file);
            return r;
        }
    }
    *ret_config = config;
    config = (struct images_config){ 0 };
    return 0;
}

void images_config_clear(struct images_config *config) { record_clear(&images_config_type, config); }

const struct image_source *images_config_source(const struct images_config *config, const char *name)
{
    for (size_t i = 0; i < config->sources.n; i++)
        if (streq(config->sources.items[i].name, name))
            return &config->sources.items[i];
    return NULL;
}
