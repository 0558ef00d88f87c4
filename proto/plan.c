#include "proto/plan.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct plan, member)
/* A member of one of plan's nameless structs, counted from that struct. */
#define IN(outer, member) .offset = offsetof(struct plan, outer.member) - offsetof(struct plan, outer)
#define SIZE_OF(outer) sizeof(((struct plan *)0)->outer)
#define TYPE(name, words, bytes, table) \
    static const struct record_type name = { .what = (words), .size = (bytes), .fields = (table), .n_fields = ARRAY_LEN(table) }

static const struct field step_fields[] = {
    { "what", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct plan_step, what) },
    { "argv", FIELD_STRV, FIELD_REQUIRED, .offset = offsetof(struct plan_step, argv) },
    { "creates", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_step, creates) },
    { "writes", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_step, writes) },
};
TYPE(step_type, "step", sizeof(struct plan_step), step_fields);

static const struct field disk_fields[] = {
    { "name", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct plan_disk, name) },
    { "path", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct plan_disk, path) },
    { "format", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct plan_disk, format) },
    { "size", FIELD_CUSTOM, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_disk, size), .codec = &codec_size },
    { "fresh", FIELD_BOOL, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_disk, fresh) },
    { "qemu_img", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_disk, qemu_img) },
};
TYPE(disk_type, "disk", sizeof(struct plan_disk), disk_fields);

static const struct field rung_fields[] = {
    { "kind", FIELD_ENUM, FIELD_REQUIRED, .offset = offsetof(struct plan_rung, kind), .names = &rung_kind_names },
    { "wait", FIELD_CUSTOM, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_rung, wait_ms), .codec = &codec_duration },
    { "repeat", FIELD_CUSTOM, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_rung, repeat_ms), .codec = &codec_duration },
};
TYPE(rung_type, "rung", sizeof(struct plan_rung), rung_fields);

static const struct field probe_fields[] = {
    { "kind", FIELD_ENUM, FIELD_REQUIRED, .offset = offsetof(struct plan_probe, kind), .names = &probe_kind_names },
    { "host", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, host) },
    { "port", FIELD_UINT, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, port), .max = UINT16_MAX },
    { "path", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, path) },
    { "status", FIELD_UINT, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, status), .max = 999 },
    { "match", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, match) },
    { "argv", FIELD_STRV, FIELD_OMIT_EMPTY, .offset = offsetof(struct plan_probe, argv) },
    { "interval", FIELD_CUSTOM, 0, .offset = offsetof(struct plan_probe, interval_ms), .codec = &codec_duration },
    { "timeout", FIELD_CUSTOM, 0, .offset = offsetof(struct plan_probe, timeout_ms), .codec = &codec_duration },
    { "start_period", FIELD_CUSTOM, 0, .offset = offsetof(struct plan_probe, start_period_ms), .codec = &codec_duration },
    { "retries", FIELD_UINT, 0, .offset = offsetof(struct plan_probe, retries) },
    { "action", FIELD_ENUM, 0, .offset = offsetof(struct plan_probe, action), .names = &health_action_names },
};
TYPE(probe_type, "probe", sizeof(struct plan_probe), probe_fields);

static const struct field file_fields[] = {
    { "fd", FIELD_UINT, FIELD_REQUIRED, .offset = offsetof(struct plan_file, fd), .min = PLAN_FD_CONSOLE_LOG, .max = PLAN_FD_END - 1 },
    { "kind", FIELD_ENUM, FIELD_REQUIRED, .offset = offsetof(struct plan_file, kind), .names = &file_kind_names },
    { "path", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct plan_file, path) },
};
TYPE(file_type, "file", sizeof(struct plan_file), file_fields);

static const struct field qemu_fields[] = {
    { "path", FIELD_STRING, FIELD_REQUIRED, IN(qemu, path) },
    { "argv", FIELD_STRV, FIELD_REQUIRED, IN(qemu, argv) },
    { "env", FIELD_STRV, FIELD_OMIT_EMPTY, IN(qemu, env) },
    { "user", FIELD_STRING, FIELD_OMIT_EMPTY, IN(qemu, user) },
    { "agent", FIELD_BOOL, FIELD_OMIT_EMPTY, IN(qemu, agent) },
    { "memlock", FIELD_CUSTOM, FIELD_OMIT_EMPTY, IN(qemu, memlock), .codec = &codec_size },
    { "uid", FIELD_UINT, FIELD_OMIT_EMPTY, IN(qemu, uid), .max = UINT32_MAX - 1 },
    { "gid", FIELD_UINT, FIELD_OMIT_EMPTY, IN(qemu, gid), .max = UINT32_MAX - 1 },
    { "groups", FIELD_STRV, FIELD_OMIT_EMPTY, IN(qemu, groups) },
    { "capabilities", FIELD_STRV, FIELD_OMIT_EMPTY, IN(qemu, capabilities) },
    { "files", FIELD_ARRAY, FIELD_OMIT_EMPTY, IN(qemu, files), .type = &file_type,
      .count_offset = offsetof(struct plan, qemu.n_files) - offsetof(struct plan, qemu) },
};
TYPE(qemu_type, "qemu", SIZE_OF(qemu), qemu_fields);

static const struct field ram_fields[] = {
    { "size", FIELD_CUSTOM, FIELD_REQUIRED, IN(ram, size), .codec = &codec_size },
    { "shared", FIELD_BOOL, 0, IN(ram, shared) },
};
TYPE(ram_type, "ram", SIZE_OF(ram), ram_fields);

static const struct field restart_fields[] = {
    { "policy", FIELD_ENUM, FIELD_REQUIRED, IN(restart, policy), .names = &restart_policy_names },
    { "delay", FIELD_CUSTOM, 0, IN(restart, delay_ms), .codec = &codec_duration },
    { "max_delay", FIELD_CUSTOM, 0, IN(restart, max_delay_ms), .codec = &codec_duration },
    { "max_attempts", FIELD_UINT, 0, IN(restart, max_attempts) },
    { "reset_after", FIELD_CUSTOM, 0, IN(restart, reset_after_ms), .codec = &codec_duration },
};
TYPE(restart_type, "restart", SIZE_OF(restart), restart_fields);

static const struct field logs_fields[] = {
    { "max_size", FIELD_CUSTOM, 0, IN(logs, max_size), .codec = &codec_size },
    { "keep", FIELD_UINT, 0, IN(logs, keep) },
};
TYPE(logs_type, "logs", SIZE_OF(logs), logs_fields);

/* A mode that isn't told is lazy, so that a plan without a restore has no such object. */
static const struct field restore_fields[] = {
    { "folder", FIELD_STRING, FIELD_REQUIRED | FIELD_OMIT_EMPTY, IN(restore, folder) },
    { "mode", FIELD_ENUM, FIELD_OMIT_EMPTY, IN(restore, mode), .names = &restore_mode_names },
    { "prefetch", FIELD_BOOL, FIELD_OMIT_EMPTY, IN(restore, prefetch) },
    { "record", FIELD_BOOL, FIELD_OMIT_EMPTY, IN(restore, record) },
    { "ephemeral", FIELD_BOOL, FIELD_OMIT_EMPTY, IN(restore, ephemeral) },
};
TYPE(restore_type, "restore", SIZE_OF(restore), restore_fields);

static const struct field plan_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "run_dir", FIELD_STRING, FIELD_REQUIRED, AT(run_dir) },
    { "state_dir", FIELD_STRING, FIELD_REQUIRED, AT(state_dir) },
    { "log_dir", FIELD_STRING, FIELD_REQUIRED, AT(log_dir) },
    { "prepare", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(prepare), .count_offset = offsetof(struct plan, n_prepare), .type = &step_type },
    { "disks", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(disks), .count_offset = offsetof(struct plan, n_disks), .type = &disk_type },
    { "qemu", FIELD_OBJECT, FIELD_REQUIRED, AT(qemu), .type = &qemu_type },
    { "ram", FIELD_OBJECT, FIELD_REQUIRED, AT(ram), .type = &ram_type },
    { "restart", FIELD_OBJECT, 0, AT(restart), .type = &restart_type },
    { "health", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(health), .count_offset = offsetof(struct plan, n_health), .type = &probe_type },
    { "stop", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(stop), .count_offset = offsetof(struct plan, n_stop), .type = &rung_type },
    { "logs", FIELD_OBJECT, 0, AT(logs), .type = &logs_type },
    { "limits", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(limits), .type = &limits_type },
    { "restore", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(restore), .type = &restore_type },
};
const struct record_type plan_type = {
    .what = "plan", .size = sizeof(struct plan), .fields = plan_fields, .n_fields = ARRAY_LEN(plan_fields)
};

static int check_absolute(const char *place, const char *path, struct err *err)
{
    if (path && path[0] != '/')
        return err_set(err, EINVAL, "bad-record", "%s: expected an absolute path, got \"%s\"", place, path);
    return 0;
}

static int check_argv(const char *place, char *const *argv, struct err *err)
{
    if (!argv[0])
        return err_set(err, EINVAL, "bad-record", "%s: expected a program and its arguments, got an empty array", place);
    return 0;
}

static int check_steps(const struct plan *plan, struct err *err)
{
    for (size_t i = 0; i < plan->n_prepare; i++) {
        char place[64];
        snprintf(place, sizeof(place), "/prepare/%zu/argv", i);
        int r = check_argv(place, plan->prepare[i].argv, err);
        if (r >= 0)
            r = check_absolute(place, plan->prepare[i].argv[0], err);
        if (r < 0)
            return r;
        snprintf(place, sizeof(place), "/prepare/%zu/creates", i);
        r = check_absolute(place, plan->prepare[i].creates, err);
        if (r < 0)
            return r;
        snprintf(place, sizeof(place), "/prepare/%zu/writes", i);
        r = check_absolute(place, plan->prepare[i].writes, err);
        if (r < 0)
            return r;
        if (plan->prepare[i].writes && !plan->prepare[i].creates)
            return err_set(err, EINVAL, "bad-record", "%s: only beside \"creates\"", place);
    }
    return 0;
}

static int check_disks(const struct plan *plan, struct err *err)
{
    for (size_t i = 0; i < plan->n_disks; i++) {
        const struct plan_disk *disk = &plan->disks[i];
        char place[64];

        snprintf(place, sizeof(place), "/disks/%zu/path", i);
        int r = check_absolute(place, disk->path, err);
        if (r < 0)
            return r;
        snprintf(place, sizeof(place), "/disks/%zu/qemu_img", i);
        r = check_absolute(place, disk->qemu_img, err);
        if (r < 0)
            return r;
        if (disk->size && !disk->qemu_img)
            return err_set(err, EINVAL, "bad-record", "%s: missing beside \"size\"", place);
        if (!streq(disk->format, "raw") && !streq(disk->format, "qcow2"))
            return err_set(err, EINVAL, "bad-record", "/disks/%zu/format: expected \"raw\" or \"qcow2\", got \"%s\"", i, disk->format);
    }
    return 0;
}

/* A user that is named but not numbered would be root. */
static int check_user(const struct plan *plan, struct err *err)
{
    uint64_t n = 0;
    if (plan->qemu.user && (plan->qemu.uid == 0 || plan->qemu.gid == 0))
        return err_set(err, EINVAL, "bad-record", "/qemu/uid: expected the uid and gid of %s, neither of them 0", plan->qemu.user);
    for (size_t i = 0; plan->qemu.groups && plan->qemu.groups[i]; i++)
        if (i == PLAN_GROUPS_MAX || parse_u64(plan->qemu.groups[i], 0, UINT32_MAX - 1, &n) < 0)
            return err_set(err, EINVAL, "bad-record", "/qemu/groups/%zu: expected at most %d decimal numbers, got \"%s\"", i,
                           PLAN_GROUPS_MAX, plan->qemu.groups[i]);
    return 0;
}

static int check_files(const struct plan *plan, struct err *err)
{
    for (size_t i = 0; i < plan->qemu.n_files; i++) {
        const struct plan_file *file = &plan->qemu.files[i];
        char place[64];

        snprintf(place, sizeof(place), "/qemu/files/%zu/path", i);
        int r = file->kind == FILE_TAP ? 0 : check_absolute(place, file->path, err);
        if (r < 0)
            return r;
        for (size_t k = 0; k < i; k++)
            if (plan->qemu.files[k].fd == file->fd)
                return err_set(err, EINVAL, "bad-record", "/qemu/files/%zu/fd: %d is also the number of /qemu/files/%zu", i, (int)file->fd,
                               k);
    }
    return 0;
}

/* What a table can't say. A plan comes from the manager or from our own folder, but a wrong one mustn't lead out of that folder. */
static int check_plan(const void *record, struct err *err)
{
    const struct plan *plan = record;
    if (!name_is_valid(plan->name))
        return err_set(err, EINVAL, "bad-record", "/name: expected " NAME_RULE ", got \"%s\"", plan->name);
    if (plan->ram.size == 0)
        return err_set(err, EINVAL, "bad-record", "/ram/size: a guest needs memory");
    const struct {
        const char *place, *path;
    } paths[] = {
        { "/run_dir", plan->run_dir },     { "/state_dir", plan->state_dir },           { "/log_dir", plan->log_dir },
        { "/qemu/path", plan->qemu.path }, { "/restore/folder", plan->restore.folder },
    };
    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        int r = check_absolute(paths[i].place, paths[i].path, err);
        if (r < 0)
            return r;
    }
    int r = check_argv("/qemu/argv", plan->qemu.argv, err);
    if (r >= 0)
        r = check_user(plan, err);
    if (r >= 0)
        r = check_files(plan, err);
    if (r >= 0)
        r = check_disks(plan, err);
    return r < 0 ? r : check_steps(plan, err);
}

int plan_from_json(const json_t *json, struct plan *ret_plan, struct err *err)
{
    struct plan plan;
    int r = schema_read(&plan_type, PLAN_SCHEMA, json, NULL, check_plan, &plan, err);
    if (r >= 0)
        *ret_plan = plan;
    return r;
}

int plan_to_json(const struct plan *plan, json_t **ret_json)
{
    int r = record_emit(&plan_type, plan, ret_json);
    if (r >= 0 && !plan->restore.folder)
        json_object_del(*ret_json, "restore"); /* a mode alone restores nothing */
    return r;
}

int plan_digest(const struct plan *plan, char ret_hex[17])
{
    auto_json json_t *json = NULL;
    int r = plan_to_json(plan, &json);
    if (r < 0)
        return r;
    json_object_del(json, "restore");
    return json_digest(json, ret_hex);
}

void plan_clear(struct plan *plan) { record_clear(&plan_type, plan); }

bool plan_disk_is_made(const struct plan *plan, const char *path)
{
    for (size_t i = 0; i < plan->n_disks; i++)
        if (!plan->disks[i].size && streq(plan->disks[i].path, path))
            return true;
    return false;
}
