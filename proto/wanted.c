#include "proto/wanted.h"

#include "lib/base/util.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct wanted, member)

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
};
const struct record_type wanted_type = {
    .what = "wish", .size = sizeof(struct wanted), .fields = wanted_fields, .n_fields = ARRAY_LEN(wanted_fields)
};

int wanted_from_json(const json_t *json, struct wanted *ret_wanted, struct err *err)
{
    struct wanted wanted;
    int r = schema_read(&wanted_type, WANTED_SCHEMA, json, NULL, NULL, &wanted, err);
    if (r >= 0)
        *ret_wanted = wanted;
    return r;
}

void wanted_clear(struct wanted *wanted) { record_clear(&wanted_type, wanted); }
