#include "lib/base/record.h"

#include "lib/base/json.h"
#include "tests/unit/fixture.h"

static const char *const color_table[] = { "red", NULL, "blue" };
static const struct enum_names color_names = { "color", color_table, ARRAY_LEN(color_table) };

struct leaf {
    char *word;
    uint64_t size;
};

struct thing {
    char *name;
    bool flag;
    uint64_t count;
    int64_t offset;
    int color;
    char **args;
    struct leaf leaf;
    struct leaf *leaves;
    size_t n_leaves;
    struct pair *labels;
    size_t n_labels;
    uint64_t wait_ms;
    uint64_t at;
};

static const struct field leaf_fields[] = {
    { "word", FIELD_STRING, FIELD_REQUIRED, .offset = offsetof(struct leaf, word) },
    { "size", FIELD_CUSTOM, FIELD_OMIT_EMPTY, .offset = offsetof(struct leaf, size), .codec = &codec_size },
};

static void leaf_init(void *record) { ((struct leaf *)record)->size = 4096; }

static const struct record_type leaf_type = { "leaf", sizeof(struct leaf), leaf_init, leaf_fields, ARRAY_LEN(leaf_fields) };

#define AT(member) .offset = offsetof(struct thing, member)
static const struct field thing_fields[] = {
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "flag", FIELD_BOOL, FIELD_OMIT_EMPTY, AT(flag) },
    { "count", FIELD_UINT, FIELD_OMIT_EMPTY, AT(count), .min = 1, .max = 255 },
    { "offset", FIELD_INT, FIELD_OMIT_EMPTY, AT(offset) },
    { "color", FIELD_ENUM, FIELD_OMIT_EMPTY, AT(color), .names = &color_names },
    { "args", FIELD_STRV, FIELD_OMIT_EMPTY, AT(args) },
    { "leaf", FIELD_OBJECT, FIELD_OMIT_EMPTY, AT(leaf), .type = &leaf_type },
    { "leaves", FIELD_ARRAY, FIELD_OMIT_EMPTY, AT(leaves), .count_offset = offsetof(struct thing, n_leaves), .type = &leaf_type },
    { "a/b~c", FIELD_MAP, FIELD_OMIT_EMPTY, AT(labels), .count_offset = offsetof(struct thing, n_labels) },
    { "wait", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(wait_ms), .codec = &codec_duration },
    { "at", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(at), .codec = &codec_time },
};
static const struct record_type thing_type = { "thing", sizeof(struct thing), NULL, thing_fields, ARRAY_LEN(thing_fields) };

static void thing_clear(struct thing *t) { record_clear(&thing_type, t); }
#define auto_thing auto_cleanup(thing_clear)

static int parse(const char *text, unsigned flags, struct thing *t, struct err *err)
{
    auto_json json_t *json = NULL;
    ck_assert_msg(json_parse(text, strlen(text), &json, err) == 0, "%s", text);
    return record_parse(&thing_type, json, flags, t, err);
}

static const char full[] = "{\"name\":\"n\",\"flag\":true,\"count\":7,\"offset\":-3,\"color\":\"blue\",\"args\":[\"a\",\"\"],"
                           "\"leaf\":{\"word\":\"w\",\"size\":\"2G\"},\"leaves\":[{\"word\":\"x\"},{\"word\":\"y\",\"size\":\"1K\"}],"
                           "\"a/b~c\":{\"k\":\"v\",\"l\":\"w\"},\"wait\":\"1m30s\",\"at\":\"2026-11-21T09:14:03.123Z\"}";

START_TEST(parses_every_kind)
{
    auto_thing struct thing t = { 0 };
    struct err err = ERR_INIT;
    ck_assert_msg(parse(full, RECORD_STRICT, &t, &err) == 0, "%s", err.text);
    ck_assert_str_eq(t.name, "n");
    ck_assert(t.flag);
    ck_assert_uint_eq(t.count, 7);
    ck_assert_int_eq(t.offset, -3);
    ck_assert_int_eq(t.color, 2);
    ck_assert_str_eq(t.args[0], "a");
    ck_assert_str_eq(t.args[1], "");
    ck_assert_ptr_null(t.args[2]);
    ck_assert_str_eq(t.leaf.word, "w");
    ck_assert_uint_eq(t.leaf.size, UINT64_C(2) << 30);
    ck_assert_uint_eq(t.n_leaves, 2);
    ck_assert_uint_eq(t.leaves[0].size, 4096); /* the element's own preset */
    ck_assert_uint_eq(t.leaves[1].size, 1024);
    ck_assert_uint_eq(t.n_labels, 2);
    ck_assert_str_eq(t.labels[1].key, "l");
    ck_assert_str_eq(t.labels[1].value, "w");
    ck_assert_uint_eq(t.wait_ms, 90000);
    ck_assert_uint_eq(t.at, UINT64_C(1795252443123000));
}
END_TEST

START_TEST(emits_what_it_parsed)
{
    auto_thing struct thing t = { 0 };
    auto_thing struct thing again = { 0 };
    ck_assert_int_eq(parse(full, 0, &t, NULL), 0);
    auto_json json_t *json = NULL, *second = NULL, *expected = NULL;
    ck_assert_int_eq(record_emit(&thing_type, &t, &json), 0);
    ck_assert_int_eq(record_parse(&thing_type, json, RECORD_STRICT, &again, NULL), 0);
    ck_assert_int_eq(record_emit(&thing_type, &again, &second), 0);
    ck_assert(json_equal(json, second));
    /* Only the preset of an element is there in addition. */
    ck_assert_int_eq(json_parse(full, strlen(full), &expected, NULL), 0);
    json_object_set_new(json_array_get(json_object_get(expected, "leaves"), 0), "size", json_string("4K"));
    ck_assert(json_equal(json, expected));
}
END_TEST

START_TEST(empty_fields_are_omitted)
{
    struct thing t = { 0 };
    auto_json json_t *json = NULL;
    ck_assert_int_eq(record_emit(&thing_type, &t, &json), 0);
    auto_free char *text = NULL;
    ck_assert_int_eq(json_format(json, &text, NULL), 0);
    /* name has no flag; leaf isn't empty, since its word has none either. */
    ck_assert_str_eq(text, "{\"name\":null,\"leaf\":{\"word\":null}}");
}
END_TEST

START_TEST(absent_and_null_keep_the_preset)
{
    auto_thing struct thing t = { .count = 9, .wait_ms = 5 };
    ck_assert_int_eq(parse("{\"name\":\"n\",\"count\":null}", RECORD_STRICT, &t, NULL), 0);
    ck_assert_uint_eq(t.count, 9);
    ck_assert_uint_eq(t.wait_ms, 5);
}
END_TEST

START_TEST(present_replaces_the_preset)
{
    auto_thing struct thing t = { 0 };
    ck_assert_int_eq(parse(full, 0, &t, NULL), 0);
    ck_assert_int_eq(parse("{\"name\":\"m\",\"args\":[],\"leaves\":[],\"a/b~c\":{},\"leaf\":{\"word\":\"z\"}}", 0, &t, NULL), 0);
    ck_assert_str_eq(t.name, "m");
    ck_assert_ptr_nonnull(t.args);
    ck_assert_ptr_null(t.args[0]);
    ck_assert_uint_eq(t.n_leaves, 0);
    ck_assert_uint_eq(t.n_labels, 0);
    ck_assert_str_eq(t.leaf.word, "z");
    ck_assert_uint_eq(t.leaf.size, UINT64_C(2) << 30);
}
END_TEST

START_TEST(mistakes_are_told_with_their_place)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        { "{\"name\":\"n\",\"count\":\"two\"}", "/count: expected an integer from 1 to 255, got string \"two\"" },
        { "{\"name\":\"n\",\"count\":256}", "/count: expected an integer from 1 to 255, got 256" },
        { "{\"name\":\"n\",\"count\":0}", "/count: expected an integer from 1 to 255, got 0" },
        { "{\"name\":\"n\",\"count\":-1}", "/count: expected an integer from 1 to 255, got -1" },
        { "{\"name\":\"n\",\"count\":1.5}", "/count: expected an integer from 1 to 255, got 1.5" },
        { "{\"name\":\"n\",\"offset\":true}", "/offset: expected an integer, got true" },
        { "{\"name\":\"n\",\"flag\":\"yes\"}", "/flag: expected true or false, got string \"yes\"" },
        { "{\"name\":1}", "/name: expected a string, got 1" },
        { "{\"name\":\"n\",\"color\":\"green\"}", "/color: expected one of red blue, got string \"green\"" },
        { "{\"name\":\"n\",\"color\":0}", "/color: expected one of red blue, got 0" },
        { "{\"name\":\"n\",\"args\":\"x\"}", "/args: expected an array of strings, got string \"x\"" },
        { "{\"name\":\"n\",\"args\":[\"a\",null]}", "/args/1: expected a string, got null" },
        { "{\"name\":\"n\",\"leaf\":[]}", "/leaf: expected an object, got an array" },
        { "{\"name\":\"n\",\"leaf\":{\"size\":\"1K\"}}", "/leaf/word: required, but missing" },
        { "{\"name\":\"n\",\"leaves\":{}}", "/leaves: expected an array, got an object" },
        { "{\"name\":\"n\",\"leaves\":[null]}", "/leaves/0: expected an object, got null" },
        { "{\"name\":\"n\",\"leaves\":[{\"word\":\"w\"},{\"word\":\"w\",\"forwrd\":1}]}", "/leaves/1/forwrd: unknown key" },
        { "{\"name\":\"n\",\"a/b~c\":{\"x/y\":1}}", "/a~1b~0c/x~1y: expected a string, got 1" },
        { "{\"name\":\"n\",\"a/b~c\":[]}", "/a~1b~0c: expected an object of strings, got an array" },
        { "{\"name\":\"n\",\"wait\":\"10\"}", "/wait: expected a duration such as \"500ms\", \"10s\" or \"1h30m\", got \"10\"" },
        { "{\"name\":\"n\",\"at\":\"now\"}", "/at: expected a time such as \"2026-11-21T09:14:03.123Z\", got \"now\"" },
        { "{\"name\":\"n\",\"leaf\":{\"word\":\"w\",\"size\":\"99999999T\"}}",
          "/leaf/size: expected a size such as \"512M\" or \"2G\", got \"99999999T\", which is too large" },
        { "{\"name\":\"n\",\"leaf\":{\"word\":\"w\",\"size\":2}}", "/leaf/size: expected a size such as \"512M\" or \"2G\", got 2" },
        { "{\"nmae\":\"n\"}", "/nmae: unknown key" },
        { "{}", "/name: required, but missing" },
        { "{\"name\":null}", "/name: required, but missing" },
        { "[]", "thing: expected an object, got an array" },
        { "\"x\"", "thing: expected an object, got string \"x\"" },
        { "{\"name\":\"n\",\"count\":\"0123456789012345678901234567890123456789x\"}",
          "/count: expected an integer from 1 to 255, got a string of 41 bytes" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        auto_thing struct thing t = { 0 };
        struct err err = ERR_INIT;
        ck_assert_msg(parse(cases[i].text, RECORD_STRICT, &t, &err) == -EINVAL, "%s", cases[i].text);
        ck_assert_str_eq(err.text, cases[i].message);
        ck_assert_str_eq(err.id, "bad-record");
        auto_thing struct thing quiet = { 0 };
        ck_assert_int_eq(parse(cases[i].text, RECORD_STRICT, &quiet, NULL), -EINVAL);
    }
    struct thing t = { 0 };
    struct err err = ERR_INIT;
    ck_assert_int_eq(record_parse(&thing_type, NULL, 0, &t, &err), -EINVAL);
    ck_assert(err_is_set(&err));
}
END_TEST

START_TEST(unknown_keys_are_fine_unless_strict)
{
    auto_thing struct thing t = { 0 };
    ck_assert_int_eq(parse("{\"name\":\"n\",\"later\":{\"x\":1},\"leaf\":{\"word\":\"w\",\"new\":1}}", 0, &t, NULL), 0);
}
END_TEST

struct reports {
    size_t n;
    char texts[8][ERR_TEXT_MAX];
};

static void collect(void *arg, const struct err *err)
{
    struct reports *reports = arg;
    if (reports->n < ARRAY_LEN(reports->texts))
        memcpy(reports->texts[reports->n++], err->text, sizeof(err->text));
}

START_TEST(parse_all_tells_every_mistake_and_keeps_the_good)
{
    static const char text[] =
        "{\"count\":\"x\",\"oops\":1,\"leaves\":[{\"word\":1},{\"word\":\"good\",\"size\":\"?\"}],\"args\":[\"a\",2],\"offset\":5}";
    auto_json json_t *json = NULL;
    ck_assert_int_eq(json_parse(text, strlen(text), &json, NULL), 0);
    auto_thing struct thing t = { 0 };
    struct reports reports = { 0 };
    ck_assert_int_eq(record_parse_all(&thing_type, json, RECORD_STRICT, &t, collect, &reports), 6);
    ck_assert_uint_eq(reports.n, 6);
    static const char *const places[] = { "/oops: ", "/name: ", "/count: ", "/args/1: ", "/leaves/0/word: ", "/leaves/1/size: " };
    for (size_t i = 0; i < ARRAY_LEN(places); i++)
        ck_assert_msg(has_prefix(reports.texts[i], places[i]), "%s", reports.texts[i]);
    ck_assert_int_eq(t.offset, 5);
    ck_assert_uint_eq(t.n_leaves, 2);
    ck_assert_str_eq(t.leaves[1].word, "good");
    auto_thing struct thing fine = { 0 };
    auto_json json_t *good = NULL;
    ck_assert_int_eq(json_parse(full, strlen(full), &good, NULL), 0);
    ck_assert_int_eq(record_parse_all(&thing_type, good, RECORD_STRICT, &fine, collect, &reports), 0);
}
END_TEST

START_TEST(emit_refuses_a_number_json_cannot_carry)
{
    struct thing t = { .name = NULL, .count = UINT64_MAX };
    json_t *json = NULL;
    ck_assert_int_eq(record_emit(&thing_type, &t, &json), -ERANGE);
    ck_assert_ptr_null(json);
}
END_TEST

START_TEST(clear_zeroes_and_may_be_repeated)
{
    struct thing t = { 0 }, zero = { 0 };
    ck_assert_int_eq(parse(full, 0, &t, NULL), 0);
    record_clear(&thing_type, &t);
    ck_assert_mem_eq(&t, &zero, sizeof(t));
    record_clear(&thing_type, &t);
}
END_TEST

START_TEST(enum_names_are_total)
{
    ck_assert_str_eq(enum_to_string(&color_names, 0), "red");
    ck_assert_str_eq(enum_to_string(&color_names, 1), "?"); /* a hole */
    ck_assert_str_eq(enum_to_string(&color_names, 3), "?");
    ck_assert_str_eq(enum_to_string(&color_names, -1), "?");
    ck_assert_int_eq(enum_from_string(&color_names, "blue"), 2);
    ck_assert_int_eq(enum_from_string(&color_names, "?"), -EINVAL);
    ck_assert_int_eq(enum_from_string(&color_names, ""), -EINVAL);
    ck_assert_int_eq(enum_from_string(&color_names, NULL), -EINVAL);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, parses_every_kind);
    tcase_add_test(tc, emits_what_it_parsed);
    tcase_add_test(tc, empty_fields_are_omitted);
    tcase_add_test(tc, absent_and_null_keep_the_preset);
    tcase_add_test(tc, present_replaces_the_preset);
    tcase_add_test(tc, mistakes_are_told_with_their_place);
    tcase_add_test(tc, unknown_keys_are_fine_unless_strict);
    tcase_add_test(tc, parse_all_tells_every_mistake_and_keeps_the_good);
    tcase_add_test(tc, emit_refuses_a_number_json_cannot_carry);
    tcase_add_test(tc, clear_zeroes_and_may_be_repeated);
    tcase_add_test(tc, enum_names_are_total);
}

int main(void) { return fixture_main("record", add_tests); }
