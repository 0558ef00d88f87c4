#include "proto/wanted.h"

#include <errno.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct wanted, member)

static const struct field restore_fields[] = {
    { "vm", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct wanted_restore, vm) },
    { "snapshot", FIELD_STRING, FIELD_OMIT_EMPTY, .offset = offsetof(struct wanted_restore, snapshot) },
    { "mode", FIELD_ENUM, FIELD_OMIT_EMPTY, .offset = offsetof(struct wanted_restore, mode), .names = &restore_mode_names },
    { "from", FIELD_UINT, FIELD_OMIT_EMPTY, .offset = offsetof(struct wanted_restore, from) },
};
static const struct record_type restore_type = {
    .what = "restore", .size = sizeof(struct wanted_restore), .fields = restore_fields, .n_fields = ARRAY_LEN(restore_fields)
};

static const struct field wanted_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "wish", FIELD_ENUM, FIELD_REQUIRED, AT(wish), .names = &vm_wanted_names },
    { "from", FIELD_UINT, 0, AT(from) },
    { "seen", FIELD_UINT, 0, AT(seen) },
    { "seen_boot", FIELD_STRING, FIELD_OMIT_EMPTY, AT(seen_boot) },
    { "force", FIELD_BOOL, FIELD_OMIT_EMPTY, AT(force) },
    { "timeout", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(timeout_ms), .codec = &codec_duration },
    { "deleting", FIELD_BOOL, FIELD_OMIT_EMPTY, AT(deleting) },
    { "purge", FIELD_BOOL, FIELD_OMIT_EMPTY, AT(purge) },
    { "by_spec", FIELD_BOOL, FIELD_OMIT_EMPTY, AT(by_spec) },
    { "restore", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(restore), .type = &restore_type },
};
const struct record_type wanted_type = {
    .what = "wish", .size = sizeof(struct wanted), .fields = wanted_fields, .n_fields = ARRAY_LEN(wanted_fields)
};

static int check_wanted(const void *record, struct err *err)
{
    const struct wanted_restore *restore = &((const struct wanted *)record)->restore;

    if (!restore->vm && !restore->snapshot)
        return 0;
    if (!restore->vm || !name_is_valid(restore->vm))
        return err_set(err, EINVAL, "bad-record", "/restore/vm: expected " NAME_RULE);
    if (!restore->snapshot || !name_is_valid(restore->snapshot))
        return err_set(err, EINVAL, "bad-record", "/restore/snapshot: expected " NAME_RULE);
    return 0;
}

int wanted_restore_set(struct wanted_restore *to, const struct wanted_restore *from)
{
    struct wanted_restore copy = { 0 };

    if (from) {
        copy.mode = from->mode;
        copy.from = from->from;
        if (str_set(&copy.vm, from->vm) < 0 || str_set(&copy.snapshot, from->snapshot) < 0) {
            wanted_restore_clear(&copy);
            return -ENOMEM;
        }
    }
    wanted_restore_clear(to);
    *to = copy;
    return 0;
}

void wanted_restore_clear(struct wanted_restore *restore) { record_clear(&restore_type, restore); }

int wanted_from_json(const json_t *json, struct wanted *ret_wanted, struct err *err)
{
    struct wanted wanted;
    int r = schema_read(&wanted_type, WANTED_SCHEMA, json, NULL, check_wanted, &wanted, err);
    if (r >= 0)
        *ret_wanted = wanted;
    return r;
}

void wanted_clear(struct wanted *wanted) { record_clear(&wanted_type, wanted); }
