#include "lib/manager/config.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/parse.h"

const char *const host_config_files[] = { "holdfast.json", "config.json", NULL };
enum { CONFIG_MAX = 64 * 1024, DELETE_GRACE_MS = 30 * 1000, RESTART_INTERVAL_MS = 5 * 1000, UPDATE_MINUTE = 3 * 60 + 30 };

typedef __typeof__(((struct host_config *)0)->restore) restore_config;

static const struct field restore_fields[] = {
    { .key = "mode", .kind = FIELD_ENUM, .names = &restore_mode_names, .offset = offsetof(restore_config, mode) },
    { .key = "prefetch", .kind = FIELD_BOOL, .offset = offsetof(restore_config, prefetch) },
};
static const struct record_type restore_config_type = {
    .what = "restore", .size = sizeof(restore_config), .fields = restore_fields, .n_fields = ARRAY_LEN(restore_fields)
};

static const char *const on_change_words[] = { [ON_CHANGE_RESTART] = "restart", [ON_CHANGE_SHOW] = "show" };
const struct enum_names on_change_names = { "what follows a change", on_change_words, ARRAY_LEN(on_change_words) };

typedef __typeof__(((struct host_config *)0)->watch) watch_config;

static const struct field watch_fields[] = {
    { .key = "delete_grace", .kind = FIELD_CUSTOM, .codec = &codec_duration, .offset = offsetof(watch_config, delete_grace) },
    { .key = "on_change", .kind = FIELD_ENUM, .names = &on_change_names, .offset = offsetof(watch_config, on_change) },
    { .key = "restart_interval", .kind = FIELD_CUSTOM, .codec = &codec_duration, .offset = offsetof(watch_config, restart_interval) },
};
static const struct record_type watch_config_type = {
    .what = "watch", .size = sizeof(watch_config), .fields = watch_fields, .n_fields = ARRAY_LEN(watch_fields)
};

/* "03:30" <-> minutes since midnight */
static int time_of_day_parse(const json_t *value, void *slot, struct err *err)
{
    const char *text = json_string_value(value), *colon = text ? strchr(text, ':') : NULL;
    char hour[3] = "";
    uint64_t h, m;

    if (!colon || colon - text < 1 || colon - text > 2 || strlen(colon) != 3)
        return record_expected(err, value, "a time of the day like \"03:30\"");
    memcpy(hour, text, (size_t)(colon - text));
    if (parse_u64(hour, 0, 23, &h) < 0 || parse_u64(colon + 1, 0, 59, &m) < 0)
        return record_expected(err, value, "a time of the day like \"03:30\"");
    *(uint64_t *)slot = h * 60 + m;
    return 0;
}

static json_t *time_of_day_emit(const void *slot)
{
    unsigned minute = (unsigned)*(const uint64_t *)slot;
    char text[16];

    snprintf(text, sizeof(text), "%02u:%02u", minute / 60 % 24, minute % 60);
    return json_string(text);
}

static const struct field_codec codec_time_of_day = { .parse = time_of_day_parse, .emit = time_of_day_emit };

typedef __typeof__(((struct host_config *)0)->image_update) image_update_config;

static const struct field image_update_fields[] = {
    { .key = "policy", .kind = FIELD_ENUM, .names = &image_update_names, .offset = offsetof(image_update_config, policy) },
    { .key = "time", .kind = FIELD_CUSTOM, .codec = &codec_time_of_day, .offset = offsetof(image_update_config, minute) },
};
static const struct record_type image_update_type = {
    .what = "image update", .size = sizeof(image_update_config), .fields = image_update_fields, .n_fields = ARRAY_LEN(image_update_fields)
};

typedef __typeof__(((struct host_config *)0)->vm_config) vm_config;

static const struct field vm_config_fields[] = {
    { .key = "configs_dir", .kind = FIELD_STRING, .offset = offsetof(vm_config, configs_dir) },
    { .key = "authorized_keys_file", .kind = FIELD_STRING, .offset = offsetof(vm_config, authorized_keys_file) },
};
static const struct record_type vm_config_type = {
    .what = "vm config", .size = sizeof(vm_config), .fields = vm_config_fields, .n_fields = ARRAY_LEN(vm_config_fields)
};

static const struct field host_config_fields[] = {
    { .key = "group", .kind = FIELD_STRING, .offset = offsetof(struct host_config, group) },
    { .key = "log_level", .kind = FIELD_STRING, .offset = offsetof(struct host_config, log_level) },
    { .key = "qemu_user", .kind = FIELD_STRING, .offset = offsetof(struct host_config, qemu_user) },
    { .key = "start_interval", .kind = FIELD_CUSTOM, .codec = &codec_duration, .offset = offsetof(struct host_config, start_interval) },
    { .key = "ports", .kind = FIELD_CUSTOM, .codec = &codec_port_range, .offset = offsetof(struct host_config, ports) },
    { .key = "limits", .kind = FIELD_OBJECT, .type = &host_limits_type, .offset = offsetof(struct host_config, limits) },
    { .key = "restore", .kind = FIELD_OBJECT, .type = &restore_config_type, .offset = offsetof(struct host_config, restore) },
    { .key = "watch", .kind = FIELD_OBJECT, .type = &watch_config_type, .offset = offsetof(struct host_config, watch) },
    { .key = "vm_config", .kind = FIELD_OBJECT, .type = &vm_config_type, .offset = offsetof(struct host_config, vm_config) },
    { .key = "image_update", .kind = FIELD_OBJECT, .type = &image_update_type, .offset = offsetof(struct host_config, image_update) },
    { .key = "images", .kind = FIELD_OBJECT, .type = &images_config_type, .offset = offsetof(struct host_config, images) },
};
const struct record_type host_config_type = {
    .what = "host config",
    .size = sizeof(struct host_config),
    .fields = host_config_fields,
    .n_fields = ARRAY_LEN(host_config_fields),
};

static int config_parse(const char *text, size_t len, struct host_config *config, struct err *err)
{
    auto_json json_t *json = NULL;
    enum log_level level;
    int r;

    r = json_parse(text, len, &json, err);
    if (r < 0)
        return r;
    r = record_parse(&host_config_type, json, RECORD_STRICT, config, err);
    if (r < 0)
        return r;
    if (config->log_level && log_level_from_string(config->log_level, &level) < 0)
        return err_set(err, EINVAL, "bad-config", "/log_level: expected error, warning, info or debug, got \"%s\"", config->log_level);
    r = host_limits_check(&config->limits, err);
    if (r < 0)
        return r;
    if (config->watch.delete_grace < DELETE_GRACE_MIN_MS)
        return err_set(err, EINVAL, "bad-config",
                       "/watch/delete_grace: expected \"1s\" or more: an editor that saves a spec may take it away for a moment");
    r = images_config_check(&config->images, err);
    if (r < 0)
        return r;
    if (config->vm_config.authorized_keys_file && config->vm_config.authorized_keys_file[0] != '/')
        return err_set(err, EINVAL, "bad-config", "/vm_config/authorized_keys_file: \"%s\" is not an absolute path",
                       config->vm_config.authorized_keys_file);
    if (!config->vm_config.configs_dir && json_is_object(json_object_get(json, "vm_config")))
        return str_set(&config->vm_config.configs_dir, SPVM_CONFIGS_DIR);
    if (config->vm_config.configs_dir && config->vm_config.configs_dir[0] != '/')
        return err_set(err, EINVAL, "bad-config", "/vm_config/configs_dir: \"%s\" is not an absolute path", config->vm_config.configs_dir);
    return 0;
}

int host_config_read(const char *config_dir, struct host_config *ret_config, struct err *err)
{
    struct host_config config = {
        .ports = PORT_RANGE_DEFAULT,
        .restore = { .mode = RESTORE_MODE_DEFAULT, .prefetch = true },
        .watch = { .delete_grace = DELETE_GRACE_MS, .on_change = ON_CHANGE_RESTART, .restart_interval = RESTART_INTERVAL_MS },
        .image_update = { .policy = IMAGE_UPDATE_MANUAL, .minute = UPDATE_MINUTE },
        .images = IMAGES_CONFIG_DEFAULTS,
    };
    const char *const *file = host_config_files;
    auto_free char *text = NULL;
    auto_fd int fd = -1;
    size_t len;
    int r;

    fd = open(config_dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    r = fd < 0 ? -errno : file_read(fd, *file, CONFIG_MAX, &text, &len);
    while (r == -ENOENT && fd >= 0 && file[1])
        r = file_read(fd, *++file, CONFIG_MAX, &text, &len);
    if (r < 0 && r != -ENOENT)
        return err_set_errno(err, -r, "bad-config", "can't read %s/%s", config_dir, *file);
    if (r >= 0) {
        r = config_parse(text, len, &config, err);
        if (r < 0) {
            host_config_clear(&config);
            err_prefix(err, "%s/%s", config_dir, *file);
            return r;
        }
        config.found = true;
    }
    *ret_config = config;
    return 0;
}

void host_config_clear(struct host_config *c) { record_clear(&host_config_type, c); }
