#include "lib/base/json.h"

#include "tests/unit/fixture.h"

static int parse(const char *text, json_t **ret, struct err *err) { return json_parse(text, strlen(text), ret, err); }

START_TEST(parses_any_one_value)
{
    static const char *const good[] = { "{}", "[]", " 1 ", "\"x\"", "null", "{\"a\":[1,2.5,true,{\"b\":null}]}\n" };
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        auto_json json_t *json = NULL;
        struct err err = ERR_INIT;
        ck_assert_msg(parse(good[i], &json, &err) == 0, "%s: %s", good[i], err.text);
        ck_assert_ptr_nonnull(json);
    }
}
END_TEST

START_TEST(refuses_what_is_not_json)
{
    static const char *const bad[] = {
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,\"a\":2}",
        "{} {}",
        "{}x",
        "\"\\u0000\"",
        "{\"a\\u0000b\":1}",
        "'a'",
        "nul",
        "[\x01]",
        "\"a\nb\"",
        "\xff",
        "99999999999999999999999",
        "]",
        "}}}}",
        "\"unterminated",
        "\"\\",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        json_t *json = NULL;
        struct err err = ERR_INIT;
        ck_assert_msg(parse(bad[i], &json, &err) == -EINVAL, "%s", bad[i]);
        ck_assert_str_eq(err.id, "bad-json");
        ck_assert_str_ne(err.text, "");
        ck_assert_ptr_null(json);
        ck_assert_int_eq(parse(bad[i], &json, NULL), -EINVAL);
    }
    json_t *json = NULL;
    ck_assert_int_eq(json_parse("{}\0", 3, &json, NULL), -EINVAL);
}
END_TEST

START_TEST(says_where)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;
    ck_assert_int_eq(parse("{\n  \"a\": 1,\n  \"b\": }\n}", &json, &err), -EINVAL);
    ck_assert_msg(has_prefix(err.text, "line 3, column 8: "), "%s", err.text);
}
END_TEST

/* `depth` opening brackets, something inside, as many closing ones. */
static char *nested(size_t depth, char open, char close, const char *inside)
{
    size_t len = strlen(inside);
    char *text = malloc(2 * depth + len + 1);
    memset(text, open, depth);
    memcpy(text + depth, inside, len);
    memset(text + depth + len, close, depth);
    text[2 * depth + len] = '\0';
    return text;
}

START_TEST(depth_is_bounded)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    auto_free char *deepest = nested(JSON_DEPTH_MAX, '[', ']', "1");
    ck_assert_int_eq(parse(deepest, &json, &err), 0);
    auto_free char *deeper = nested(JSON_DEPTH_MAX + 1, '[', ']', "1");
    json_t *none = NULL;
    ck_assert_int_eq(parse(deeper, &none, &err), -EINVAL);
    ck_assert_str_eq(err.text, "line 1, column 65: nested deeper than 64 levels");
    auto_free char *bomb = nested(200000, '[', ']', "");
    ck_assert_int_eq(parse(bomb, &none, &err), -EINVAL);
    ck_assert_ptr_null(none);
}
END_TEST

START_TEST(brackets_in_strings_do_not_nest)
{
    auto_free char *brackets = nested(200, '[', ']', "{{{{ \\\" [[[[ \\\\");
    auto_free char *text = NULL;
    ck_assert_int_eq(str_format(&text, "[\"%s\", {\"[[[\": []}]", brackets), 0);
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;
    ck_assert_msg(parse(text, &json, &err) == 0, "%s", err.text);
    /* And nesting after such a string counts. */
    auto_free char *deep = nested(100, '[', ']', "\"]]]]\"");
    json_t *none = NULL;
    ck_assert_int_eq(parse(deep, &none, NULL), -EINVAL);
    /* Siblings don't add up. */
    auto_free char *flat = malloc(3 * 1000 + 3);
    char *p = flat;
    *p++ = '[';
    for (int i = 0; i < 1000; i++)
        p = mempcpy(p, i ? ",[]" : "[]", i ? 3 : 2);
    memcpy(p, "]", 2);
    auto_json json_t *array = NULL;
    ck_assert_int_eq(parse(flat, &array, NULL), 0);
    ck_assert_uint_eq(json_array_size(array), 1000);
}
END_TEST

START_TEST(format_is_compact)
{
    auto_json json_t *json = json_pack("{s:i, s:[s, n, b]}", "b", 1, "a", "x/ü", 1);
    char *text = NULL;
    size_t len = 0;
    ck_assert_int_eq(json_format(json, &text, &len), 0);
    ck_assert_str_eq(text, "{\"b\":1,\"a\":[\"x/ü\",null,true]}");
    ck_assert_uint_eq(len, strlen(text));
    free(text);
    ck_assert_int_eq(json_format(json, &text, NULL), 0);
    free(text);
    text = NULL;
    ck_assert_int_lt(json_format(NULL, &text, &len), 0);
    ck_assert_ptr_null(text);
}
END_TEST

START_TEST(digest_ignores_order_and_sees_change)
{
    char a[17], b[17], c[17];
    auto_json json_t *one = NULL, *same = NULL, *other = NULL;
    ck_assert_int_eq(parse("{\"x\": {\"p\": 1, \"q\": [1, 2]}, \"y\": \"t\"}", &one, NULL), 0);
    ck_assert_int_eq(parse("{\"y\":\"t\",\"x\":{\"q\":[1,2],\"p\":1}}", &same, NULL), 0);
    ck_assert_int_eq(parse("{\"y\":\"t\",\"x\":{\"q\":[2,1],\"p\":1}}", &other, NULL), 0);
    ck_assert_int_eq(json_digest(one, a), 0);
    ck_assert_int_eq(json_digest(same, b), 0);
    ck_assert_int_eq(json_digest(other, c), 0);
    ck_assert_str_eq(a, b);
    ck_assert_str_ne(a, c);
    ck_assert_uint_eq(strspn(a, "0123456789abcdef"), 16);
    /* FNV-1a of the two bytes "{}", so that digests on disk stay comparable from build to build. */
    auto_json json_t *empty = json_object();
    ck_assert_int_eq(json_digest(empty, a), 0);
    ck_assert_str_eq(a, "08f44b07b5901a25");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, parses_any_one_value);
    tcase_add_test(tc, refuses_what_is_not_json);
    tcase_add_test(tc, says_where);
    tcase_add_test(tc, depth_is_bounded);
    tcase_add_test(tc, brackets_in_strings_do_not_nest);
    tcase_add_test(tc, format_is_compact);
    tcase_add_test(tc, digest_ignores_order_and_sees_change);
}

int main(void) { return fixture_main("json", add_tests); }
