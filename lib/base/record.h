/* Records: C structs that are read from and written to JSON by one table of fields each.
 *
 * The same table serves files (status, plan, exit record, spec) and wire messages, so the struct, its parser, its emitter and its
 * destructor can't drift. Structs own their strings and arrays (malloc); record_clear() releases them and zeroes the struct.
 *
 * Defaults: record_parse() fills only keys that are present, so a caller presets the struct first (or gives .init). A JSON null counts
 * as absent. Errors name the place as a JSON Pointer (RFC 6901): "/network/0/forwrd: unknown key". */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

/* Names of an enum's values, index = value. Holes are NULL. */
struct enum_names {
    const char *what; /* "state", for messages */
    const char *const *names;
    size_t n;
};

const char *enum_to_string(const struct enum_names *e, int value); /* "?" when out of range, never NULL */
int enum_from_string(const struct enum_names *e, const char *s);   /* the value, or -EINVAL */

enum field_kind {
    FIELD_STRING, /* char * */
    FIELD_BOOL,   /* bool */
    FIELD_UINT,   /* uint64_t, with .min and .max (max 0: no limit) */
    FIELD_INT,    /* int64_t */
    FIELD_ENUM,   /* int, by .names */
    FIELD_STRV,   /* char ** NULL-ended */
    FIELD_OBJECT, /* an embedded struct, by .type */
    FIELD_ARRAY,  /* TYPE *items at .offset and size_t n at .count_offset, by .type */
    FIELD_MAP,    /* struct pair *items and size_t n, a JSON object of strings */
    FIELD_CUSTOM, /* by .codec: sizes, durations, addresses */
};

struct pair {
    char *key;
    char *value;
};

/* `slot` is the field's place in the struct. parse: 0 or -EINVAL with err text saying what was expected (without the path).
 * emit: a new reference, or NULL when out of memory. clear may be NULL. */
struct field_codec {
    int (*parse)(const json_t *value, void *slot, struct err *err);
    json_t *(*emit)(const void *slot);
    void (*clear)(void *slot);
};

/* For codecs and checks: "expected EXPECTED, got string \"two\"". Returns -EINVAL. */
int record_expected(struct err *err, const json_t *got, const char *expected);

extern const struct field_codec codec_size;     /* "2G" <-> uint64_t bytes */
extern const struct field_codec codec_duration; /* "10s" <-> uint64_t milliseconds */
extern const struct field_codec codec_time;     /* "2026-11-21T09:14:03.123Z" <-> uint64_t microseconds of real time; 0 <-> null */

enum field_flags {
    FIELD_REQUIRED = 1 << 0,   /* absent is an error */
    FIELD_OMIT_EMPTY = 1 << 1, /* not emitted when NULL, 0, false or of no elements; a FIELD_CUSTOM when its text is null or "0",
                                * a FIELD_OBJECT when nothing in it was emitted */
};

struct record_type;

struct field {
    const char *key;
    enum field_kind kind;
    unsigned flags;
    size_t offset;
    size_t count_offset;
    uint64_t min, max;
    const struct enum_names *names;
    const struct record_type *type;
    const struct field_codec *codec;
};

struct record_type {
    const char *what; /* "plan", for messages */
    size_t size;
    void (*init)(void *record); /* presets of an array's elements, may be NULL */
    const struct field *fields;
    size_t n_fields;
};

enum record_flags {
    RECORD_STRICT = 1 << 0, /* unknown keys are errors (what people write); without it they are ignored (what builds write) */
};

/* Fills `record`, which the caller zeroed or preset. On failure what was filled so far stays, for record_clear().
 * -EINVAL with id "bad-record", -ENOMEM. */
int record_parse(const struct record_type *type, const json_t *json, unsigned flags, void *record, struct err *err);

/* As record_parse(), but goes on after a mistake and hands each one to `report`: all problems of a file in one go.
 * Returns the number of mistakes, or -ENOMEM. */
int record_parse_all(const struct record_type *type, const json_t *json, unsigned flags, void *record,
                     void (*report)(void *arg, const struct err *err), void *arg);

/* A new object. Numbers over INT64_MAX, which JSON libraries can't carry, are -ERANGE. */
int record_emit(const struct record_type *type, const void *record, json_t **ret_json);
/* Also of a record that was parsed halfway, or zeroed. */
void record_clear(const struct record_type *type, void *record);
