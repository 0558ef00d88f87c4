#include "lib/images/newest.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/images/names.h"
#include "proto/launch.h"
#include "proto/schema.h"

enum { FOLDER_MODE = 0755, FILE_MODE = 0644 };

#define FILE_NEWEST ".newest.json"
#define AT(member) .offset = offsetof(struct image_newest, member)
static const struct field newest_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "history", FIELD_STRV, FIELD_OMIT_EMPTY, AT(history) },
    { "checked_at", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(checked_us), .codec = &codec_time },
    { "tried_at", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(tried_us), .codec = &codec_time },
    { "problem", FIELD_STRING, FIELD_OMIT_EMPTY, AT(problem) },
};
const struct record_type image_newest_type = {
    .what = "newest release", .size = sizeof(struct image_newest), .fields = newest_fields, .n_fields = ARRAY_LEN(newest_fields)
};

static int check_newest(const void *arg, struct err *err)
{
    const struct image_newest *newest = arg;
    size_t i = 0;

    for (char **version = newest->history; version && *version; version++, i++)
        if (!image_version_is_valid(*version))
            return err_set(err, EINVAL, "bad-record", "/history/%zu: expected " IMAGE_NAME_RULE, i);
    return 0;
}

int image_newest_from_json(const json_t *json, struct image_newest *ret_newest, struct err *err)
{
    return schema_read(&image_newest_type, NEWEST_SCHEMA, json, NULL, check_newest, ret_newest, err);
}

void image_newest_clear(struct image_newest *newest) { record_clear(&image_newest_type, newest); }

int image_newest_read(int store_fd, const char *name, struct image_newest *ret_newest)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int fd = image_name_is_valid(name) ? dir_open(store_fd, name) : -ENOENT;
    struct image_newest newest;
    size_t len;
    int r = fd < 0 ? fd : file_read(fd, FILE_NEWEST, RECORD_MAX, &text, &len);

    if (r >= 0)
        r = json_parse(text, len, &json, NULL);
    if (r >= 0)
        r = image_newest_from_json(json, &newest, NULL);
    if (r == -ENOMEM)
        return r;
    *ret_newest = r < 0 ? (struct image_newest){ .schema = NEWEST_SCHEMA } : newest;
    return 0;
}

int image_newest_write(int store_fd, const char *name, const struct image_newest *newest)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int fd = -1;
    size_t len;
    int r;

    if (!image_name_is_valid(name))
        return -EINVAL;
    if (mkdirat(store_fd, name, FOLDER_MODE) < 0 && errno != EEXIST)
        return -errno;
    fd = dir_open(store_fd, name);
    if (fd < 0)
        return fd;
    r = record_emit(&image_newest_type, newest, &json);
    if (r >= 0)
        r = json_format_indented(json, &text, &len);
    return r < 0 ? r : file_write(fd, FILE_NEWEST, text, len, FILE_MODE, FILE_DURABLE);
}

const char *image_newest_version(const struct image_newest *newest) { return newest->history ? newest->history[0] : NULL; }

int image_newest_add(struct image_newest *newest, const char *version)
{
    char *first;
    size_t n = 0, kept = 1;
    char **history;

    while (newest->history && newest->history[n])
        n++;
    history = calloc(n + 2, sizeof(*history)); /* NOLINT(bugprone-sizeof-expression): of pointers */
    first = strdup(version);
    if (!history || !first) {
        free(history);
        free(first);
        return -ENOMEM;
    }
    history[0] = first;
    for (size_t i = 0; i < n; i++) {
        if (!streq(newest->history[i], version) && kept < NEWEST_HISTORY_MAX)
            history[kept++] = newest->history[i];
        else
            free(newest->history[i]);
    }
    free(newest->history);
    newest->history = history;
    return 0;
}

/* Its place in the history, SIZE_MAX when it has none. */
static size_t place(const struct image_newest *newest, const char *version)
{
    for (size_t i = 0; newest->history && newest->history[i]; i++)
        if (streq(newest->history[i], version))
            return i;
    return SIZE_MAX;
}

int image_newest_compare(const struct image_newest *newest, const char *a, const char *b)
{
    size_t place_a = place(newest, a), place_b = place(newest, b);

    if (place_a != place_b)
        return place_a < place_b ? 1 : -1;
    return strverscmp(a, b);
}
