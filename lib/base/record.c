#include "lib/base/record.h"

#include <errno.h>

#include "lib/base/strv.h"
#include "lib/base/util.h"

const char *enum_to_string(const struct enum_names *e, int value)
{
    if (value < 0 || (size_t)value >= e->n || !e->names[value])
        return "?";
    return e->names[value];
}

int enum_from_string(const struct enum_names *e, const char *s)
{
    for (size_t i = 0; s && i < e->n; i++)
        if (e->names[i] && streq(e->names[i], s))
            return (int)i;
    return -EINVAL;
}

/* Where we are: a list on the C stack from the innermost place outwards, turned into text only when there is a mistake to report. */
struct place {
    const struct place *outer;
    const char *key; /* NULL: an array's element */
    size_t index;
};

struct parser {
    unsigned flags;
    void (*report)(void *arg, const struct err *err); /* NULL: stop at the first mistake */
    void *arg;
    struct err *err; /* of that first one */
    int mistakes;
};

/* A JSON Pointer token (RFC 6901): '~' and '/' escaped. */
static void put_token(FILE *f, const char *key)
{
    for (; *key; key++) {
        if (*key == '~')
            fputs("~0", f);
        else if (*key == '/')
            fputs("~1", f);
        else
            fputc(*key, f);
    }
}

static void put_path(FILE *f, const struct place *place) /* NOLINT(misc-no-recursion): as deep as the types nest */
{
    if (!place)
        return;
    put_path(f, place->outer);
    fputc('/', f);
    if (place->key)
        put_token(f, place->key);
    else
        fprintf(f, "%zu", place->index);
}

/* Puts the path in front of what is wrong and hands it on. 0: go on, -EINVAL: stop. */
static int mistake(struct parser *p, const struct place *place, const char *what, struct err *problem)
{
    char path[ERR_TEXT_MAX] = "";
    if (place) {
        FILE *f = fmemopen(path, sizeof(path) - 1, "w");
        if (!f)
            return -ENOMEM;
        put_path(f, place);
        (void)fclose(f); /* a path too long for the message is cut */
    }
    struct err whole = ERR_INIT;
    err_set(&whole, EINVAL, "bad-record", "%s: %s", place ? path : what, problem->text);
    p->mistakes++;
    if (p->report) {
        p->report(p->arg, &whole);
        return 0;
    }
    if (p->err)
        *p->err = whole;
    return -EINVAL;
}

/* What was given, for "expected …, got …". */
static const char *describe(const json_t *json, char buf[80])
{
    switch (json_typeof(json)) {
    case JSON_STRING:
        if (json_string_length(json) > 40)
            snprintf(buf, 80, "a string of %zu bytes", json_string_length(json));
        else
            snprintf(buf, 80, "string \"%s\"", json_string_value(json));
        break;
    case JSON_INTEGER:
        snprintf(buf, 80, "%" JSON_INTEGER_FORMAT, json_integer_value(json));
        break;
    case JSON_REAL:
        snprintf(buf, 80, "%g", json_real_value(json));
        break;
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_TRUE:
        return "true";
    case JSON_FALSE:
        return "false";
    case JSON_NULL:
        return "null";
    }
    return buf;
}

int record_expected(struct err *err, const json_t *got, const char *expected)
{
    char buf[80];
    return err_set(err, EINVAL, "bad-record", "expected %s, got %s", expected, describe(got, buf));
}

static int parse_string(const json_t *value, char **slot, struct err *err)
{
    if (!json_is_string(value))
        return record_expected(err, value, "a string");
    return str_set(slot, json_string_value(value));
}

static int parse_uint(const struct field *f, const json_t *value, uint64_t *slot, struct err *err)
{
    json_int_t n = json_integer_value(value);
    if (json_is_integer(value) && n >= 0 && (uint64_t)n >= f->min && (!f->max || (uint64_t)n <= f->max)) {
        *slot = (uint64_t)n;
        return 0;
    }
    char expected[80];
    if (f->max)
        snprintf(expected, sizeof(expected), "an integer from %" PRIu64 " to %" PRIu64, f->min, f->max);
    else
        snprintf(expected, sizeof(expected), "an integer of at least %" PRIu64, f->min);
    return record_expected(err, value, expected);
}

static int parse_int(const json_t *value, int64_t *slot, struct err *err)
{
    if (!json_is_integer(value))
        return record_expected(err, value, "an integer");
    *slot = json_integer_value(value);
    return 0;
}

static int parse_enum(const struct field *f, const json_t *value, int *slot, struct err *err)
{
    int r = enum_from_string(f->names, json_string_value(value));
    if (r >= 0) {
        *slot = r;
        return 0;
    }
    char expected[256] = "one of";
    size_t len = strlen(expected);
    for (size_t i = 0; i < f->names->n; i++)
        if (f->names->names[i] && len < sizeof(expected))
            len += (size_t)snprintf(expected + len, sizeof(expected) - len, " %s", f->names->names[i]);
    return record_expected(err, value, expected);
}

static int parse_bool(const json_t *value, bool *slot, struct err *err)
{
    if (!json_is_boolean(value))
        return record_expected(err, value, "true or false");
    *slot = json_is_true(value);
    return 0;
}

static void *slot_of(void *record, const struct field *f) { return (char *)record + f->offset; }

static size_t *count_of(void *record, const struct field *f) { return (size_t *)((char *)record + f->count_offset); }

/* A field that had a value loses it when the record names it again. */
static void clear_field(const struct field *f, void *record)
{
    struct record_type one = { .size = 0, .fields = f, .n_fields = 1 };
    record_clear(&one, record);
}

static int parse_strv(struct parser *p, const struct place *place, const struct field *f, const json_t *value, void *record)
{
    struct err problem = ERR_INIT;
    if (!json_is_array(value)) {
        record_expected(&problem, value, "an array of strings");
        return mistake(p, place, NULL, &problem);
    }
    auto_strv struct strv v = { 0 };
    int r = 0;
    for (size_t i = 0; i < json_array_size(value) && r >= 0; i++) {
        const json_t *item = json_array_get(value, i);
        if (json_is_string(item)) {
            strv_push(&v, json_string_value(item));
            continue;
        }
        record_expected(&problem, item, "a string");
        r = mistake(p, &(struct place){ .outer = place, .index = i }, NULL, &problem);
    }
    if (r < 0)
        return r;
    if (v.failed)
        return -ENOMEM;
    /* An empty array is an empty vector, not an absent one. */
    char **items = v.items ? v.items : calloc(1, sizeof(*items));
    if (!items)
        return -ENOMEM;
    v = (struct strv){ 0 };
    clear_field(f, record);
    *(char ***)slot_of(record, f) = items;
    return 0;
}

static int parse_map(struct parser *p, const struct place *place, const struct field *f, const json_t *value, void *record)
{
    struct err problem = ERR_INIT;
    if (!json_is_object(value)) {
        record_expected(&problem, value, "an object of strings");
        return mistake(p, place, NULL, &problem);
    }
    clear_field(f, record);
    size_t n = json_object_size(value);
    struct pair *pairs = n ? calloc(n, sizeof(*pairs)) : NULL;
    if (n && !pairs)
        return -ENOMEM;
    *(struct pair **)slot_of(record, f) = pairs;
    size_t *count = count_of(record, f);
    const char *key;
    json_t *item;
    json_object_foreach ((json_t *)(uintptr_t)value, key, item) {
        if (!json_is_string(item)) {
            record_expected(&problem, item, "a string");
            int r = mistake(p, &(struct place){ .outer = place, .key = key }, NULL, &problem);
            if (r < 0)
                return r;
            continue;
        }
        struct pair *pair = &pairs[(*count)++];
        if (str_set(&pair->key, key) < 0 || str_set(&pair->value, json_string_value(item)) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int parse_record(struct parser *p, const struct place *place, const struct record_type *type, const json_t *json, void *record);

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int parse_array(struct parser *p, const struct place *place, const struct field *f, const json_t *value, void *record)
{
    if (!json_is_array(value)) {
        struct err problem = ERR_INIT;
        record_expected(&problem, value, "an array");
        return mistake(p, place, NULL, &problem);
    }
    clear_field(f, record);
    size_t n = json_array_size(value);
    char *items = n ? calloc(n, f->type->size) : NULL;
    if (n && !items)
        return -ENOMEM;
    *(void **)slot_of(record, f) = items;
    for (size_t i = 0; i < n; i++) {
        char *item = items + i * f->type->size;
        *count_of(record, f) = i + 1;
        if (f->type->init)
            f->type->init(item);
        int r = parse_record(p, &(struct place){ .outer = place, .index = i }, f->type, json_array_get(value, i), item);
        if (r < 0)
            return r;
    }
    return 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int parse_field(struct parser *p, const struct place *place, const struct field *f, const json_t *value, void *record)
{
    void *slot = slot_of(record, f);
    struct err problem = ERR_INIT;
    int r = -EINVAL;
    switch (f->kind) {
    case FIELD_STRING:
        r = parse_string(value, slot, &problem);
        break;
    case FIELD_BOOL:
        r = parse_bool(value, slot, &problem);
        break;
    case FIELD_UINT:
        r = parse_uint(f, value, slot, &problem);
        break;
    case FIELD_INT:
        r = parse_int(value, slot, &problem);
        break;
    case FIELD_ENUM:
        r = parse_enum(f, value, slot, &problem);
        break;
    case FIELD_CUSTOM:
        r = f->codec->parse(value, slot, &problem);
        break;
    case FIELD_STRV:
        return parse_strv(p, place, f, value, record);
    case FIELD_OBJECT:
        return parse_record(p, place, f->type, value, slot);
    case FIELD_ARRAY:
        return parse_array(p, place, f, value, record);
    case FIELD_MAP:
        return parse_map(p, place, f, value, record);
    }
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        if (!err_is_set(&problem))
            err_set_errno(&problem, -r, "bad-record", "not understood");
        return mistake(p, place, NULL, &problem);
    }
    return 0;
}

static int reject_unknown(struct parser *p, const struct place *place, const struct record_type *type, const json_t *json)
{
    const char *key;
    json_t *value;
    json_object_foreach ((json_t *)(uintptr_t)json, key, value) {
        bool known = false;
        for (size_t i = 0; i < type->n_fields && !known; i++)
            known = streq(type->fields[i].key, key);
        if (known)
            continue;
        struct err problem = ERR_INIT;
        err_set(&problem, EINVAL, "bad-record", "unknown key");
        int r = mistake(p, &(struct place){ .outer = place, .key = key }, NULL, &problem);
        if (r < 0)
            return r;
    }
    return 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int parse_record(struct parser *p, const struct place *place, const struct record_type *type, const json_t *json, void *record)
{
    struct err problem = ERR_INIT;
    if (!json_is_object(json)) {
        record_expected(&problem, json, "an object");
        return mistake(p, place, type->what, &problem);
    }
    /* First, since a key that is misspelt is the better news than the one that is missing for it. */
    int r = p->flags & RECORD_STRICT ? reject_unknown(p, place, type, json) : 0;
    for (size_t i = 0; i < type->n_fields && r >= 0; i++) {
        const struct field *f = &type->fields[i];
        const json_t *value = json_object_get(json, f->key);
        struct place here = { .outer = place, .key = f->key };
        if (value && !json_is_null(value)) {
            r = parse_field(p, &here, f, value, record);
        } else if (f->flags & FIELD_REQUIRED) {
            err_set(&problem, EINVAL, "bad-record", "required, but missing");
            r = mistake(p, &here, NULL, &problem);
        }
    }
    return r;
}

int record_parse(const struct record_type *type, const json_t *json, unsigned flags, void *record, struct err *err)
{
    struct parser p = { .flags = flags, .err = err };
    int r = json ? parse_record(&p, NULL, type, json, record) : -EINVAL;
    if (r == -ENOMEM)
        return err_set_errno(err, ENOMEM, "bad-record", "cannot read %s", type->what);
    if (!json)
        return err_set(err, EINVAL, "bad-record", "%s: nothing there", type->what);
    return r;
}

int record_parse_all(const struct record_type *type, const json_t *json, unsigned flags, void *record,
                     void (*report)(void *arg, const struct err *err), void *arg)
{
    struct parser p = { .flags = flags, .report = report, .arg = arg };
    if (!json)
        return -EINVAL;
    int r = parse_record(&p, NULL, type, json, record);
    return r < 0 ? r : p.mistakes;
}
