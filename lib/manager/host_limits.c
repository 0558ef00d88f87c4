#include "lib/manager/host_limits.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"

#define FIELD_AT(record, member) .offset = offsetof(record, member)

static int memory_parse(const json_t *value, void *slot, struct err *err)
{
    if (json_is_string(value) && streq(json_string_value(value), "auto")) {
        *(uint64_t *)slot = MEMORY_OF_HOST;
        return 0;
    }
    return codec_size.parse(value, slot, err);
}

static json_t *memory_emit(const void *slot)
{
    return *(const uint64_t *)slot == MEMORY_OF_HOST ? json_string("auto") : codec_size.emit(slot);
}

static const struct field_codec codec_memory = { .parse = memory_parse, .emit = memory_emit };

static int ports_parse(const json_t *value, void *slot, struct err *err)
{
    const char *text = json_string_value(value), *dash = text ? strchr(text, '-') : NULL;
    auto_free char *from = dash ? strndup(text, (size_t)(dash - text)) : NULL;
    uint64_t first, last;

    if (!from || parse_u64(from, 1, UINT16_MAX, &first) < 0 || parse_u64(dash + 1, first, UINT16_MAX, &last) < 0)
        return record_expected(err, value, "ports like \"20000-29999\", the first not above the last");
    *(struct port_range *)slot = (struct port_range){ (uint16_t)first, (uint16_t)last };
    return 0;
}

static json_t *ports_emit(const void *slot)
{
    const struct port_range *range = slot;

    return json_sprintf("%u-%u", (unsigned)range->first, (unsigned)range->last);
}

const struct field_codec codec_port_range = { .parse = ports_parse, .emit = ports_emit };

static const struct field count_range_fields[] = {
    { .key = "min", .kind = FIELD_UINT, FIELD_AT(struct host_range, min), .max = INT32_MAX },
    { .key = "max", .kind = FIELD_UINT, FIELD_AT(struct host_range, max), .max = INT32_MAX },
};
static const struct record_type count_range_type = { "range", sizeof(struct host_range), NULL, count_range_fields,
                                                     ARRAY_LEN(count_range_fields) };

static const struct field size_range_fields[] = {
    { .key = "min", .kind = FIELD_CUSTOM, FIELD_AT(struct host_range, min), .codec = &codec_size },
    { .key = "max", .kind = FIELD_CUSTOM, FIELD_AT(struct host_range, max), .codec = &codec_size },
};
static const struct record_type size_range_type = { "range", sizeof(struct host_range), NULL, size_range_fields,
                                                    ARRAY_LEN(size_range_fields) };

static const struct field limits_fields[] = {
    { .key = "cpus", .kind = FIELD_UINT, FIELD_AT(struct host_limits, cpus), .max = INT32_MAX },
    { .key = "memory", .kind = FIELD_CUSTOM, FIELD_AT(struct host_limits, memory), .codec = &codec_memory },
    { .key = "disk", .kind = FIELD_CUSTOM, FIELD_AT(struct host_limits, disk), .codec = &codec_size },
    { .key = "disk_reserve", .kind = FIELD_CUSTOM, FIELD_AT(struct host_limits, disk_reserve), .codec = &codec_size },
    { .key = "cpus_per_vm", .kind = FIELD_OBJECT, FIELD_AT(struct host_limits, cpus_per_vm), .type = &count_range_type },
    { .key = "memory_per_vm", .kind = FIELD_OBJECT, FIELD_AT(struct host_limits, memory_per_vm), .type = &size_range_type },
    { .key = "disk_size", .kind = FIELD_OBJECT, FIELD_AT(struct host_limits, disk_size), .type = &size_range_type },
};
const struct record_type host_limits_type = { "limits", sizeof(struct host_limits), NULL, limits_fields, ARRAY_LEN(limits_fields) };

int host_limits_check(const struct host_limits *limits, struct err *err)
{
    const struct {
        const char *key;
        const struct host_range *range;
    } ranges[] = {
        { "cpus_per_vm", &limits->cpus_per_vm },
        { "memory_per_vm", &limits->memory_per_vm },
        { "disk_size", &limits->disk_size },
    };

    for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
        if (ranges[i].range->max && ranges[i].range->min > ranges[i].range->max)
            return err_set(err, EINVAL, "bad-config", "/limits/%s: \"min\" is above \"max\", so that no VM could start", ranges[i].key);
    return 0;
}
