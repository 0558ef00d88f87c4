#include "proto/status.h"

#include <errno.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/schema.h"

static const struct field process_id_fields[] = {
    { "pid", FIELD_UINT, FIELD_OMIT_EMPTY, .offset = offsetof(struct process_id, pid), .max = INT32_MAX },
    { "start_time", FIELD_UINT, FIELD_OMIT_EMPTY, .offset = offsetof(struct process_id, start_time) },
};
const struct record_type process_id_type = {
    .what = "process", .size = sizeof(struct process_id), .fields = process_id_fields, .n_fields = ARRAY_LEN(process_id_fields)
};

#define AT(member) .offset = offsetof(struct status, member)

static const struct field status_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "incarnation", FIELD_UINT, FIELD_REQUIRED, AT(incarnation) },
    { "state", FIELD_ENUM, FIELD_REQUIRED, AT(state), .names = &vm_state_names },
    { "since", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(since), .codec = &codec_time },
    { "detail", FIELD_STRING, FIELD_OMIT_EMPTY, AT(detail) },
    { "health", FIELD_ENUM, 0, AT(health), .names = &vm_health_names },
    { "restarts", FIELD_UINT, 0, AT(restarts) },
    { "attempt", FIELD_UINT, FIELD_OMIT_EMPTY, AT(attempt) },
    { "started", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(started), .codec = &codec_time },
    { "boot_id", FIELD_STRING, FIELD_REQUIRED, AT(boot_id) },
    { "shim", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(shim), .type = &process_id_type },
    { "qemu", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(qemu), .type = &process_id_type },
    { "plan_digest", FIELD_STRING, FIELD_OMIT_EMPTY, AT(plan_digest) },
    { "version", FIELD_STRING, FIELD_OMIT_EMPTY, AT(version) },
    { "cgroup", FIELD_STRING, FIELD_OMIT_EMPTY, AT(cgroup) },
    { "event_seq", FIELD_UINT, 0, AT(event_seq) },
};
const struct record_type status_type = {
    .what = "status", .size = sizeof(struct status), .fields = status_fields, .n_fields = ARRAY_LEN(status_fields)
};

/* A pid without its start time names nobody. */
static int check_process(const char *place, const struct process_id *process, struct err *err)
{
    if (process->pid && !process->start_time)
        return err_set(err, EINVAL, "bad-record", "/%s/start_time: required, but missing", place);
    return 0;
}

static int check_status(const void *record, struct err *err)
{
    const struct status *status = record;
    if (!name_is_valid(status->name))
        return err_set(err, EINVAL, "bad-record", "/name: expected " NAME_RULE ", got \"%s\"", status->name);
    int r = check_process("shim", &status->shim, err);
    return r < 0 ? r : check_process("qemu", &status->qemu, err);
}

int status_from_json(const json_t *json, struct status *ret_status, struct err *err)
{
    struct status status;
    int r = schema_read(&status_type, STATUS_SCHEMA, json, NULL, check_status, &status, err);
    if (r >= 0)
        *ret_status = status;
    return r;
}

void status_clear(struct status *status) { record_clear(&status_type, status); }
