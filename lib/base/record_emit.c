/* The writing and the releasing half of lib/base/record.h. */
#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/record.h"
#include "lib/base/util.h"

static const void *slot_of(const void *record, const struct field *f) { return (const char *)record + f->offset; }

static size_t count_of(const void *record, const struct field *f) { return *(const size_t *)((const char *)record + f->count_offset); }

static json_t *string_or_null(const char *s) { return s ? json_string(s) : json_null(); }

/* Adds, and passes on a NULL value (out of memory, or text that isn't UTF-8) as -ENOMEM. */
static int append(json_t *array, json_t *value) { return json_array_append_new(array, value) < 0 ? -ENOMEM : 0; }

static int emit_strv(char *const *items, json_t **ret)
{
    auto_json json_t *array = json_array();
    if (!array)
        return -ENOMEM;
    for (size_t i = 0; items && items[i]; i++)
        if (append(array, json_string(items[i])) < 0)
            return -ENOMEM;
    *ret = steal_ptr(&array);
    return 0;
}

static int emit_map(const struct pair *pairs, size_t n, json_t **ret)
{
    auto_json json_t *object = json_object();
    if (!object)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (json_object_set_new(object, pairs[i].key, string_or_null(pairs[i].value)) < 0)
            return -ENOMEM;
    *ret = steal_ptr(&object);
    return 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int emit_array(const struct record_type *type, const char *items, size_t n, json_t **ret)
{
    auto_json json_t *array = json_array();
    if (!array)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        json_t *item = NULL;
        int r = record_emit(type, items + i * type->size, &item);
        if (r < 0)
            return r;
        if (append(array, item) < 0)
            return -ENOMEM;
    }
    *ret = steal_ptr(&array);
    return 0;
}

static int emit_uint(uint64_t n, json_t **ret)
{
    if (n > INT64_MAX)
        return -ERANGE;
    *ret = json_integer((json_int_t)n);
    return 0;
}

/* 0 with *ret NULL: out of memory, for the caller to see. */
/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int emit_field(const struct field *f, const void *record, json_t **ret)
{
    const void *slot = slot_of(record, f);
    switch (f->kind) {
    case FIELD_STRING:
        *ret = string_or_null(*(char *const *)slot);
        return 0;
    case FIELD_BOOL:
        *ret = json_boolean(*(const bool *)slot);
        return 0;
    case FIELD_UINT:
        return emit_uint(*(const uint64_t *)slot, ret);
    case FIELD_INT:
        *ret = json_integer(*(const int64_t *)slot);
        return 0;
    case FIELD_ENUM:
        *ret = json_string(enum_to_string(f->names, *(const int *)slot));
        return 0;
    case FIELD_STRV:
        return emit_strv(*(char **const *)slot, ret);
    case FIELD_OBJECT:
        return record_emit(f->type, slot, ret);
    case FIELD_ARRAY:
        return emit_array(f->type, *(const char *const *)slot, count_of(record, f), ret);
    case FIELD_MAP:
        return emit_map(*(const struct pair *const *)slot, count_of(record, f), ret);
    case FIELD_CUSTOM:
        *ret = f->codec->emit(slot);
        return 0;
    }
    return -EINVAL;
}

/* For FIELD_OMIT_EMPTY, on what was emitted: so nested objects and custom fields need no rule of their own. */
static bool is_empty(const struct field *f, const void *record, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
    case JSON_FALSE:
        return true;
    case JSON_INTEGER:
        return json_integer_value(value) == 0;
    case JSON_STRING:
        if (f->kind == FIELD_ENUM)
            return *(const int *)slot_of(record, f) == 0;
        return f->kind == FIELD_CUSTOM && streq(json_string_value(value), "0");
    case JSON_ARRAY:
        return json_array_size(value) == 0;
    case JSON_OBJECT:
        return json_object_size(value) == 0;
    case JSON_TRUE:
    case JSON_REAL:
        return false;
    }
    return false;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
int record_emit(const struct record_type *type, const void *record, json_t **ret_json)
{
    auto_json json_t *object = json_object();
    if (!object)
        return -ENOMEM;
    for (size_t i = 0; i < type->n_fields; i++) {
        const struct field *f = &type->fields[i];
        auto_json json_t *value = NULL;
        int r = emit_field(f, record, &value);
        if (r < 0)
            return r;
        if (!value)
            return -ENOMEM;
        if ((f->flags & FIELD_OMIT_EMPTY) && is_empty(f, record, value))
            continue;
        if (json_object_set(object, f->key, value) < 0)
            return -ENOMEM;
    }
    *ret_json = steal_ptr(&object);
    return 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static void clear_array(const struct record_type *type, char *items, size_t n)
{
    for (size_t i = 0; i < n; i++)
        record_clear(type, items + i * type->size);
    free(items);
}

static void clear_strv(char **items)
{
    for (size_t i = 0; items && items[i]; i++)
        free(items[i]);
    free(items);
}

static void clear_map(struct pair *pairs, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(pairs[i].key);
        free(pairs[i].value);
    }
    free(pairs);
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static void clear_slot(const struct field *f, void *record)
{
    void *slot = (char *)record + f->offset;
    switch (f->kind) {
    case FIELD_STRING:
        free(*(char **)slot);
        *(char **)slot = NULL;
        return;
    case FIELD_STRV:
        clear_strv(*(char ***)slot);
        *(char ***)slot = NULL;
        return;
    case FIELD_OBJECT:
        record_clear(f->type, slot);
        return;
    case FIELD_ARRAY:
        clear_array(f->type, *(char **)slot, count_of(record, f));
        break;
    case FIELD_MAP:
        clear_map(*(struct pair **)slot, count_of(record, f));
        break;
    case FIELD_CUSTOM:
        if (f->codec->clear)
            f->codec->clear(slot);
        return;
    case FIELD_BOOL:
    case FIELD_UINT:
    case FIELD_INT:
    case FIELD_ENUM:
        return;
    }
    *(void **)slot = NULL;
    *(size_t *)((char *)record + f->count_offset) = 0;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
void record_clear(const struct record_type *type, void *record)
{
    for (size_t i = 0; i < type->n_fields; i++)
        clear_slot(&type->fields[i], record);
    memset(record, 0, type->size);
}
