/* proto/holdfast-vm.schema.json has every key of the spec's tables, with the same kind, range and names, and no other; tests/golden/schema.py
 * compares what the two say of specs. */
#include <check.h>
#include <fcntl.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"
#include "tests/unit/fixture.h"

static json_t *schema;

/* A place in the schema, following one "$ref" to "#/$defs/NAME". `inner` is what it says beside that. */
static const json_t *resolve(const json_t *place)
{
    static const char defs[] = "#/$defs/";
    const char *ref = json_string_value(json_object_get(place, "$ref"));

    if (!ref)
        return place;
    ck_assert(has_prefix(ref, defs));
    const json_t *def = json_object_get(json_object_get(schema, "$defs"), ref + strlen(defs));
    ck_assert_ptr_nonnull(def);
    return def;
}

static bool array_has(const json_t *array, const char *text)
{
    size_t i;
    json_t *one;

    json_array_foreach ((json_t *)(uintptr_t)array, i, one)
        if (json_is_string(one) && streq(json_string_value(one), text))
            return true;
    return false;
}

static void assert_type(const char *key, const json_t *place, const char *type)
{
    const json_t *is = json_object_get(resolve(place), "type");
    bool same = json_is_array(is) ? array_has(is, type) : json_is_string(is) && streq(json_string_value(is), type);

    ck_assert_msg(same, "\"%s\" is no %s in the schema", key, type);
}

static void assert_range(const struct field *f, const json_t *place)
{
    assert_type(f->key, place, "integer");
    ck_assert_msg((uint64_t)json_integer_value(json_object_get(place, "minimum")) == f->min, "minimum of \"%s\"", f->key);
    ck_assert_msg((uint64_t)json_integer_value(json_object_get(place, "maximum")) == f->max, "maximum of \"%s\"", f->key);
}

static void assert_names(const struct field *f, const json_t *place)
{
    const json_t *names = json_object_get(place, "enum");
    size_t n = 0, i;
    json_t *one;

    for (i = 0; i < f->names->n; i++) {
        n += f->names->names[i] != NULL;
        ck_assert_msg(!f->names->names[i] || array_has(names, f->names->names[i]), "\"%s\" lacks \"%s\"", f->key, f->names->names[i]);
    }
    json_array_foreach ((json_t *)(uintptr_t)names, i, one)
        n -= json_is_string(one);
    ck_assert_msg(n == 0, "\"%s\" has other names than the table", f->key);
}

static void compare(const struct record_type *type, const json_t *place);

static void compare_field(const struct field *f, const json_t *place)
{
    switch (f->kind) {
    case FIELD_BOOL:
        assert_type(f->key, place, "boolean");
        break;
    case FIELD_UINT:
        assert_range(f, place);
        break;
    case FIELD_ENUM:
        assert_names(f, place);
        break;
    case FIELD_STRV:
        assert_type(f->key, place, "array");
        assert_type(f->key, json_object_get(place, "items"), "string");
        break;
    case FIELD_OBJECT:
        compare(f->type, place);
        break;
    case FIELD_ARRAY:
        assert_type(f->key, place, "array");
        compare(f->type, json_object_get(place, "items"));
        break;
    case FIELD_STRING: /* of some only a few are good: "format", "proto" */
        ck_assert_msg(json_object_get(place, "enum") || json_object_get(resolve(place), "type"), "\"%s\" has no type", f->key);
        if (!json_object_get(place, "enum"))
            assert_type(f->key, place, "string");
        break;
    case FIELD_CUSTOM:
        if (f->codec == &codec_size)
            ck_assert_str_eq(json_string_value(json_object_get(place, "$ref")), "#/$defs/size");
        if (f->codec == &codec_duration)
            ck_assert_str_eq(json_string_value(json_object_get(place, "$ref")), "#/$defs/duration");
        break;
    case FIELD_MAP:
        assert_type(f->key, place, "object");
        assert_type(f->key, json_object_get(place, "additionalProperties"), "string");
        break;
    case FIELD_INT:
        ck_abort_msg("\"%s\": no spec has had such a field", f->key);
    }
}

static void compare(const struct record_type *type, const json_t *place)
{
    const json_t *keys = json_object_get(place, "properties"), *required = json_object_get(place, "required");
    size_t n_required = 0;

    assert_type(type->what, place, "object");
    ck_assert_msg(json_is_false(json_object_get(place, "additionalProperties")), "%s takes unknown keys", type->what);
    ck_assert_msg(json_object_size(keys) == type->n_fields, "%s: %zu keys, and %zu in the table", type->what, json_object_size(keys),
                  type->n_fields);
    for (size_t i = 0; i < type->n_fields; i++) {
        const struct field *f = &type->fields[i];
        const json_t *key = json_object_get(keys, f->key);

        ck_assert_msg(key != NULL, "the schema lacks \"%s\" of %s", f->key, type->what);
        compare_field(f, key);
        n_required += (f->flags & FIELD_REQUIRED) != 0;
        ck_assert_msg(!(f->flags & FIELD_REQUIRED) || array_has(required, f->key), "\"%s\" is required", f->key);
    }
    ck_assert_msg(json_array_size(required) == n_required, "%s: other keys are required", type->what);
}

START_TEST(every_key_of_the_tables)
{
    auto_free char *text = NULL;
    struct err err = ERR_INIT;
    size_t len;

    ck_assert_int_eq(file_read(AT_FDCWD, SCHEMA_FILE, 1 << 20, &text, &len), 0);
    ck_assert_msg(json_parse(text, len, &schema, &err) == 0, "%s", err.text);
    compare(&spec_type, schema);
    json_decref(schema);
}
END_TEST

static void add_tests(TCase *tc) { tcase_add_test(tc, every_key_of_the_tables); }

int main(void) { return fixture_main("schema", add_tests); }
