/* The codecs that records of several folders share. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/parse.h"
#include "lib/base/record.h"

/* One of the parsers of text behind a codec, with what it expects in words. */
static int parse_text(const json_t *value, int (*parse)(const char *, uint64_t *), const char *expected, void *slot, struct err *err)
{
    const char *text = json_string_value(value);
    int r = text ? parse(text, slot) : -EINVAL;
    if (r >= 0)
        return 0;
    if (!text)
        return record_expected(err, value, expected);
    return err_set(err, EINVAL, "bad-record", "expected %s, got \"%.40s\"%s", expected, text, r == -ERANGE ? ", which is too large" : "");
}

static int size_parse(const json_t *value, void *slot, struct err *err)
{
    return parse_text(value, parse_size, "a size such as \"512M\" or \"2G\"", slot, err);
}

static json_t *size_emit(const void *slot)
{
    char buf[SIZE_TEXT_MAX];
    return json_string(format_size(*(const uint64_t *)slot, buf));
}

const struct field_codec codec_size = { .parse = size_parse, .emit = size_emit };

static int duration_parse(const json_t *value, void *slot, struct err *err)
{
    return parse_text(value, parse_duration, "a duration such as \"500ms\", \"10s\" or \"1h30m\"", slot, err);
}

static json_t *duration_emit(const void *slot)
{
    char buf[DURATION_TEXT_MAX];
    return json_string(format_duration(*(const uint64_t *)slot, buf));
}

const struct field_codec codec_duration = { .parse = duration_parse, .emit = duration_emit };

static int time_parse(const json_t *value, void *slot, struct err *err)
{
    return parse_text(value, clock_parse, "a time such as \"2026-11-21T09:14:03.123Z\"", slot, err);
}

static json_t *time_emit(const void *slot)
{
    uint64_t us = *(const uint64_t *)slot;
    char buf[CLOCK_TEXT_MAX];
    return us ? json_string(clock_format(us, buf)) : json_null();
}

const struct field_codec codec_time = { .parse = time_parse, .emit = time_emit };
