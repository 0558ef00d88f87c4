#include "proto/memory.h"

#include "lib/base/util.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct memory_state, member)

static const struct field memory_state_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "incarnation", FIELD_UINT, FIELD_REQUIRED, AT(incarnation) },
    { "mode", FIELD_ENUM, FIELD_REQUIRED, AT(mode), .names = &restore_mode_names },
    { "folder", FIELD_STRING, FIELD_REQUIRED, AT(folder) },
    { "prefetch", FIELD_BOOL, 0, AT(prefetch) },
    { "record", FIELD_BOOL, 0, AT(record) },
    { "complete", FIELD_BOOL, 0, AT(complete) },
};
const struct record_type memory_state_type = {
    .what = "state of the memory",
    .size = sizeof(struct memory_state),
    .fields = memory_state_fields,
    .n_fields = ARRAY_LEN(memory_state_fields),
};

int memory_state_from_json(const json_t *json, struct memory_state *ret_state, struct err *err)
{
    struct memory_state state;
    int r = schema_read(&memory_state_type, MEMORY_SCHEMA, json, NULL, NULL, &state, err);

    if (r >= 0)
        *ret_state = state;
    return r;
}

void memory_state_clear(struct memory_state *state) { record_clear(&memory_state_type, state); }
