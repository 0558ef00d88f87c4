#include "proto/limits.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

enum { PERCENT_TEXT_MAX = 16 };

/* "150%", as systemd's CPUQuota=. */
static int percent_parse(const json_t *value, void *slot, struct err *err)
{
    static const char expected[] = "a percentage of one processor such as \"150%\", from \"1%\" to \"100000%\"";
    const char *text = json_string_value(value);
    char digits[PERCENT_TEXT_MAX];
    size_t len = text ? strlen(text) : 0;
    uint64_t percent;

    if (!text)
        return record_expected(err, value, expected);
    if (len < 2 || len > sizeof(digits) || text[len - 1] != '%')
        return err_set(err, EINVAL, "bad-record", "expected %s, got \"%.40s\"", expected, text);
    memcpy(digits, text, len - 1);
    digits[len - 1] = '\0';
    if (parse_u64(digits, 1, LIMIT_QUOTA_MAX, &percent) < 0)
        return err_set(err, EINVAL, "bad-record", "expected %s, got \"%.40s\"", expected, text);
    *(uint64_t *)slot = percent;
    return 0;
}

static json_t *percent_emit(const void *slot)
{
    char text[PERCENT_TEXT_MAX + 8];
    uint64_t percent = *(const uint64_t *)slot;

    if (percent == 0)
        return json_null();
    (void)snprintf(text, sizeof(text), "%llu%%", (unsigned long long)percent);
    return json_string(text);
}

static const struct field_codec codec_percent = { .parse = percent_parse, .emit = percent_emit };

#define AT(member) .offset = offsetof(struct limits, member)

static const struct field limits_fields[] = {
    { "cpu_quota", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(cpu_quota), .codec = &codec_percent },
    { "cpu_weight", FIELD_UINT, FIELD_OMIT_EMPTY, AT(cpu_weight), .min = 1, .max = LIMIT_WEIGHT_MAX },
    { "memory_high", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(memory_high), .codec = &codec_size },
    { "memory_max", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(memory_max), .codec = &codec_size },
    { "io_weight", FIELD_UINT, FIELD_OMIT_EMPTY, AT(io_weight), .min = 1, .max = LIMIT_WEIGHT_MAX },
};
const struct record_type limits_type = {
    .what = "limits", .size = sizeof(struct limits), .fields = limits_fields, .n_fields = ARRAY_LEN(limits_fields)
};

bool limits_any(const struct limits *l) { return l->cpu_quota || l->cpu_weight || l->memory_high || l->memory_max || l->io_weight; }
