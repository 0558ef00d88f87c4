#include "lib/manager/launch_record.h"

#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/util.h"
#include "lib/manager/vm.h"
#include "proto/launch.h"

enum { LAUNCH_RECORD_SCHEMA = 1, LAUNCH_RECORD_MODE = 0640 };

/* Newer managers may have added to it: what isn't known is passed over. */
static int parse(const json_t *json, struct launch_record *ret)
{
    struct launch_record record = { 0 };
    const char *folder = json_string_value(json_object_get(json, "folder")), *file = json_string_value(json_object_get(json, "file"));
    const char *known = json_string_value(json_object_get(json, "known"));
    json_t *spec = json_object_get(json, "spec");

    if (json_integer_value(json_object_get(json, "schema")) < LAUNCH_RECORD_SCHEMA || !folder || !file || !json_is_object(spec))
        return -EINVAL;
    if (str_set(&record.folder, folder) < 0 || str_set(&record.file, file) < 0) {
        launch_record_clear(&record);
        return -ENOMEM;
    }
    snprintf(record.known, sizeof(record.known), "%s", known ? known : "");
    record.gone = json_is_true(json_object_get(json, "gone"));
    record.spec = json_incref(spec);
    if (json_is_object(json_object_get(json, "native")))
        record.native = json_incref(json_object_get(json, "native"));
    if (json_string_value(json_object_get(json, "plan_digest")))
        snprintf(record.plan_digest, sizeof(record.plan_digest), "%s", json_string_value(json_object_get(json, "plan_digest")));
    *ret = record;
    return 0;
}

static void set_aside(int run_vms_fd, const char *name)
{
    auto_fd int fd = dir_open(run_vms_fd, name);
    auto_free char *new_name = NULL;

    if (fd >= 0 && file_set_aside(fd, FILE_SPEC, &new_name) >= 0)
        log_vm_error(name, "%s doesn't parse and was kept as %s", FILE_SPEC, new_name);
}

int launch_record_read(int run_vms_fd, const char *name, struct launch_record *ret_record)
{
    char path[VM_PATH_MAX];
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(run_vms_fd, name_path(name, FILE_SPEC, path), RECORD_MAX, &text, &len);
    if (r < 0)
        return r == -ENOTDIR ? -ENOENT : r;
    r = json_parse(text, len, &json, NULL);
    if (r >= 0)
        r = parse(json, ret_record);
    if (r < 0 && r != -ENOMEM) {
        set_aside(run_vms_fd, name);
        return -EINVAL;
    }
    return r;
}

int launch_record_write(int run_vms_fd, const char *name, const struct launch_record *record)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    auto_fd int fd = dir_open(run_vms_fd, name);
    size_t len;
    int r;

    if (fd < 0)
        return fd;
    json = json_pack("{s:i, s:s, s:s, s:O, s:O*, s:s}", "schema", LAUNCH_RECORD_SCHEMA, "folder", record->folder, "file", record->file,
                     "spec", record->spec, "native", record->native, "plan_digest", record->plan_digest);
    if (!json || (record->known[0] && json_object_set_new(json, "known", json_string(record->known)) < 0) ||
        (record->gone && json_object_set_new(json, "gone", json_true()) < 0))
        return -ENOMEM;
    r = json_format(json, &text, &len);
    return r < 0 ? r : file_write(fd, FILE_SPEC, text, len, LAUNCH_RECORD_MODE, FILE_ATOMIC);
}

int launch_record_note_plan(int run_vms_fd, const char *name, json_t *native, const char *plan_digest)
{
    auto_launch_record struct launch_record record = { 0 };
    int r = launch_record_read(run_vms_fd, name, &record);

    if (r < 0)
        return r;
    json_decref(record.native);
    record.native = json_incref(native);
    snprintf(record.plan_digest, sizeof(record.plan_digest), "%s", plan_digest);
    return launch_record_write(run_vms_fd, name, &record);
}

json_t *launch_record_native(int run_vms_fd, const char *name, const char *plan_digest)
{
    auto_launch_record struct launch_record record = { 0 };

    if (launch_record_read(run_vms_fd, name, &record) < 0 || !streq(record.plan_digest, plan_digest))
        return NULL;
    return json_incref(record.native);
}

void launch_record_clear(struct launch_record *record)
{
    free(record->folder);
    free(record->file);
    json_decref(record->spec);
    json_decref(record->native);
    *record = (struct launch_record){ 0 };
}
