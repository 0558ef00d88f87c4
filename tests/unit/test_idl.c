#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/varlink/idl.h"
#include "lib/varlink/message.h"

#include <check.h>

static const char text[] = "# An interface with everything in it.\n"
                           "interface org.example.all-things\n"
                           "\n"
                           "type Color (red, green, dark_blue)\n"
                           "type Point (x: int, y: ?float)\n"
                           "type Shape (\n"
                           "  # a comment inside\n"
                           "  name: string,\n"
                           "  color: ?Color,\n"
                           "  points: []Point,\n"
                           "  tags: [string]string,\n"
                           "  inner: ?(kind: (a, b), deep: [][]?int)\n"
                           ")\n"
                           "method Draw(shape: Shape, opaque: ?bool, any: ?object) -> (id: int, next: ?Later)\n"
                           "method Empty() -> ()\n"
                           "type Later (shapes: ?[]Shape)\n"
                           "error Bad (reason: string, at: ?Point)\n"
                           "error Nothing ()\n";

static struct varlink_interface *parse_ok(const char *t)
{
    struct varlink_interface *i = NULL;
    struct err err = ERR_INIT;

    ck_assert_msg(varlink_interface_parse(t, &i, &err) == 0, "%s", err.text);
    return i;
}

static void collect(void *arg, const char *method)
{
    size_t used = strlen(arg);

    snprintf((char *)arg + used, 64 - used, "%s ", method);
}

START_TEST(parses)
{
    struct varlink_interface *i = parse_ok(text);
    char names[64] = "";

    ck_assert_str_eq(varlink_interface_name(i), "org.example.all-things");
    ck_assert_ptr_eq(varlink_interface_text(i), text);
    ck_assert(varlink_interface_has_method(i, "Draw"));
    ck_assert(!varlink_interface_has_method(i, "Dra"));
    ck_assert(!varlink_interface_has_method(i, "Point"));
    ck_assert(varlink_interface_has_error(i, "org.example.all-things.Bad"));
    ck_assert(!varlink_interface_has_error(i, "org.example.all-things.Draw"));
    ck_assert(!varlink_interface_has_error(i, "org.example.all-thingsxBad"));
    ck_assert(!varlink_interface_has_error(i, "Bad"));
    varlink_interface_methods(i, collect, names);
    ck_assert_str_eq(names, "Draw Empty ");
    varlink_interface_free(i);
    varlink_interface_free(NULL);
}
END_TEST

static const struct {
    const char *text, *error;
} bad_texts[] = {
    { "", "line 1: expected 'interface'" },
    { "interfacex a.b", "line 1: expected 'interface'" },
    { "interface ab", "line 1: malformed interface name" },
    { "interface a..b", "line 1: malformed interface name" },
    { "interface a.b-\n", "line 1: malformed interface name" },
    { "interface 1.b", "line 1: expected the interface's name" },
    { "interface a.b\nfoo", "line 2: expected 'type', 'method' or 'error'" },
    { "interface a.b\n\ntype lower ()", "line 3: expected a name that begins with a capital letter" },
    { "interface a.b\ntype T int", "line 2: expected '('" },
    { "interface a.b\ntype T (a: int\n", "line 3: expected ',' or ')'" },
    { "interface a.b\ntype T (a: int,)", "line 2: expected a field name" },
    { "interface a.b\ntype T (a: int, b)", "line 2: expected ':' and a type" },
    { "interface a.b\ntype T (a, b: int)", "line 2: an enum's name has no type" },
    { "interface a.b\ntype T (a: int, a: int)", "line 2: name given twice: 'a'" },
    { "interface a.b\ntype T (a: ??int)", "line 2: '?' given twice" },
    { "interface a.b\ntype T (a: integer)", "line 2: expected a type" },
    { "interface a.b\ntype T (a: Missing)", "line 2: unknown type 'Missing'" },
    { "interface a.b\ntype T ()\nmethod T() -> ()", "line 3: name given twice: 'T'" },
    { "interface a.b\nmethod M() - ()", "line 2: expected '->'" },
    { "interface a.b\nmethod M() ->", "line 2: expected '(' and what the method returns" },
    { "interface a.b\nmethod M(a, b) -> ()", "line 2: a method takes and returns structs" },
    { "interface a.b\nerror E (a, b)", "line 2: an error's parameters are a struct" },
    { "interface a.b\nerror E", "line 2: expected '('" },
};

START_TEST(refuses_bad_text)
{
    struct varlink_interface *i = NULL;
    struct err err = ERR_INIT;

    ck_assert_int_eq(varlink_interface_parse(bad_texts[_i].text, &i, &err), -EINVAL);
    ck_assert_str_eq(err.text, bad_texts[_i].error);
    ck_assert_str_eq(err.id, "bad-interface");
    ck_assert_ptr_null(i);
}
END_TEST

START_TEST(refuses_deep_and_large_text)
{
    struct varlink_interface *i = NULL;
    char *t = malloc(1024 * 1024);
    size_t used = (size_t)snprintf(t, 64, "interface a.b\ntype T ");

    for (int n = 0; n < 40; n++)
        used += (size_t)snprintf(t + used, 8, "(a: ");
    ck_assert_int_eq(varlink_interface_parse(t, &i, NULL), -EINVAL);
    memset(t, ' ', 1024 * 1024 - 1);
    t[1024 * 1024 - 1] = '\0';
    ck_assert_int_eq(varlink_interface_parse(t, &i, NULL), -EINVAL);
    /* more nodes than an index can tell apart */
    used = (size_t)snprintf(t, 64, "interface a.b\ntype T (a: ");
    for (int n = 0; n < 70000; n++)
        used += (size_t)snprintf(t + used, 8, "[]");
    snprintf(t + used, 8, "int)");
    ck_assert_int_eq(varlink_interface_parse(t, &i, NULL), -EINVAL);
    free(t);
}
END_TEST

#define GOOD_SHAPE "{\"name\":\"n\",\"points\":[],\"tags\":{}}"
static const struct {
    const char *parameters, *error, *member;
    bool lenient_ok;
} checks[] = {
    { "{\"shape\":" GOOD_SHAPE "}", NULL, NULL, true },
    { "{\"shape\":" GOOD_SHAPE ",\"opaque\":null,\"any\":[1,{}]}", NULL, NULL, true },
    { "{\"shape\":" GOOD_SHAPE ",\"opaque\":true,\"any\":3}", NULL, NULL, true },
    { "{\"shape\":{\"name\":\"n\",\"color\":\"dark_blue\",\"points\":[{\"x\":1,\"y\":2},{\"x\":1,\"y\":2.5},{\"x\":3}],\"tags\":{\"a\":\"b\"},"
      "\"inner\":{\"kind\":\"b\",\"deep\":[[],[1,null]]}}}",
      NULL, NULL, true },
    { "{}", "shape: missing", "shape", false },
    { "{\"shape\":null}", "shape: expected object, got null", "shape", false },
    { "{\"shape\":" GOOD_SHAPE ",\"new\":1}", "new: unknown member", "new", true },
    { "{\"shape\":" GOOD_SHAPE ",\"opaque\":1}", "opaque: expected bool, got integer", "opaque", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[],\"tags\":{},\"z\":0}}", "shape.z: unknown member", "shape", true },
    { "{\"shape\":{\"name\":1,\"points\":[],\"tags\":{}}}", "shape.name: expected string, got integer", "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":{},\"tags\":{}}}", "shape.points: expected array, got object", "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[{\"x\":1},{\"x\":1.5}],\"tags\":{}}}", "shape.points[1].x: expected integer, got real",
      "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[{\"y\":1}],\"tags\":{}}}", "shape.points[0].x: missing", "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[{\"x\":1,\"y\":\"2\"}],\"tags\":{}}}", "shape.points[0].y: expected number, got string",
      "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[],\"tags\":{\"k\":1}}}", "shape.tags.k: expected string, got integer", "shape", false },
    { "{\"shape\":{\"name\":\"n\",\"color\":\"blue\",\"points\":[],\"tags\":{}}}", "shape.color: not one of the enum's names", "shape",
      false },
    { "{\"shape\":{\"name\":\"n\",\"color\":7,\"points\":[],\"tags\":{}}}", "shape.color: expected string of an enum, got integer", "shape",
      false },
    { "{\"shape\":{\"name\":\"n\",\"points\":[],\"tags\":{},\"inner\":{\"kind\":\"a\",\"deep\":[[1],[true]]}}}",
      "shape.inner.deep[1][0]: expected integer, got bool", "shape", false },
    { "[]", "parameters: expected object, got array", "parameters", false },
};

START_TEST(checks_parameters)
{
    struct varlink_interface *i = parse_ok(text);
    struct err err = ERR_INIT;
    json_t *p = NULL;
    char member[64] = "";
    int r;

    ck_assert_int_eq(json_parse(checks[_i].parameters, strlen(checks[_i].parameters), &p, NULL), 0);
    r = varlink_check(i, "Draw", VARLINK_IN, p, false, member, &err);
    if (checks[_i].error) {
        ck_assert_int_eq(r, -EINVAL);
        ck_assert_str_eq(err.text, checks[_i].error);
        ck_assert_str_eq(err.id, "bad-parameter");
        ck_assert_str_eq(member, checks[_i].member);
    } else {
        ck_assert_msg(r == 0, "%s", err.text);
    }
    ck_assert_int_eq(varlink_check(i, "Draw", VARLINK_IN, p, true, NULL, NULL), checks[_i].lenient_ok ? 0 : -EINVAL);
    json_decref(p);
    varlink_interface_free(i);
}
END_TEST

START_TEST(checks_out_and_errors)
{
    struct varlink_interface *i = parse_ok(text);
    json_t *id = json_pack("{s:i}", "id", 3), *reason = json_pack("{s:s}", "reason", "why"), *none = json_object();

    ck_assert_int_eq(varlink_check(i, "Draw", VARLINK_OUT, id, false, NULL, NULL), 0);
    ck_assert_int_eq(varlink_check(i, "Draw", VARLINK_OUT, NULL, false, NULL, NULL), -EINVAL);
    ck_assert_int_eq(varlink_check(i, "Empty", VARLINK_IN, NULL, false, NULL, NULL), 0);
    ck_assert_int_eq(varlink_check(i, "Empty", VARLINK_OUT, id, false, NULL, NULL), -EINVAL);
    ck_assert_int_eq(varlink_check(i, "Empty", VARLINK_OUT, id, true, NULL, NULL), 0);
    ck_assert_int_eq(varlink_check(i, "Missing", VARLINK_IN, NULL, true, NULL, NULL), -EINVAL);
    ck_assert_int_eq(varlink_check_error(i, "org.example.all-things.Bad", reason, false, NULL), 0);
    ck_assert_int_eq(varlink_check_error(i, "Bad", reason, false, NULL), 0);
    ck_assert_int_eq(varlink_check_error(i, "Bad", none, true, NULL), -EINVAL);
    ck_assert_int_eq(varlink_check_error(i, "Nothing", NULL, false, NULL), 0);
    ck_assert_int_eq(varlink_check_error(i, "Nothing", reason, false, NULL), -EINVAL);
    ck_assert_int_eq(varlink_check_error(i, "Draw", none, true, NULL), -EINVAL);
    json_decref(id);
    json_decref(reason);
    json_decref(none);
    varlink_interface_free(i);
}
END_TEST

/* A type may hold itself; a value nested deeper than any message can be is refused, not followed. */
START_TEST(recursion_is_bounded)
{
    struct varlink_interface *i = parse_ok("interface a.b\ntype T (t: ?T)\nmethod M(t: T) -> ()\n");
    json_t *p = json_object();
    int r;

    for (int n = 0; n < 200; n++)
        p = json_pack("{s:o}", "t", p);
    r = varlink_check(i, "M", VARLINK_IN, p, true, NULL, NULL);
    ck_assert_int_eq(r, -EINVAL);
    json_decref(p);
    varlink_interface_free(i);
}
END_TEST

static const struct {
    const char *text;
    bool call, reply;
} messages[] = {
    { "{\"method\":\"a.b.C\"}", true, true },
    { "{\"method\":\"a.b.C\",\"parameters\":null,\"more\":null,\"x\":1}", true, true },
    { "{\"method\":\"a.b.C\",\"parameters\":{\"a\":1},\"more\":true}", true, true },
    { "{\"method\":\"a.b.C\",\"more\":true,\"oneway\":true}", false, true },
    { "{\"method\":\"a.b.C\",\"more\":1}", false, true },
    { "{\"method\":1}", false, true },
    { "{\"method\":\"a\",\"parameters\":[]}", false, false },
    { "{}", false, true },
    { "{\"parameters\":{},\"continues\":true}", false, true },
    { "{\"error\":\"a.b.E\"}", false, true },
    { "{\"error\":null}", false, true },
    { "{\"error\":\"\"}", false, false },
    { "{\"error\":3}", false, false },
    { "{\"error\":\"a.b.E\",\"continues\":true}", false, false },
    { "{\"continues\":0}", false, false },
    { "[]", false, false },
    { "", false, false },
    { "{", false, false },
    { "{} {}", false, false },
    { "{\"method\":\"a\",\"method\":\"b\"}", false, false },
};

START_TEST(parses_messages)
{
    struct varlink_message m = { 0 };
    const char *t = messages[_i].text;
    int r = varlink_message_parse_call(t, strlen(t), &m, NULL);

    ck_assert_int_eq(r, messages[_i].call ? 0 : -EINVAL);
    if (r == 0) {
        ck_assert_ptr_nonnull(m.method);
        ck_assert(json_is_object(m.parameters));
        ck_assert_int_eq(m.more, json_is_true(json_object_get(m.root, "more")));
    }
    varlink_message_clear(&m);
    r = varlink_message_parse_reply(t, strlen(t), &m, NULL);
    ck_assert_int_eq(r, messages[_i].reply ? 0 : -EINVAL);
    if (r == 0)
        ck_assert(json_is_object(m.parameters));
    varlink_message_clear(&m);
}
END_TEST

START_TEST(formats_messages)
{
    json_t *p = json_pack("{s:i}", "a", 1);
    char *t = NULL;
    size_t len = 0;

    ck_assert_int_eq(varlink_message_format_call("a.b", "C", p, true, false, false, &t, &len), 0);
    ck_assert_str_eq(t, "{\"method\":\"a.b.C\",\"parameters\":{\"a\":1},\"more\":true}");
    ck_assert_uint_eq(len, strlen(t));
    free(t);
    ck_assert_int_eq(varlink_message_format_call(NULL, "a.b.C", NULL, false, false, true, &t, &len), 0);
    ck_assert_str_eq(t, "{\"method\":\"a.b.C\",\"upgrade\":true}");
    free(t);
    ck_assert_int_eq(varlink_message_format_reply(NULL, NULL, false, &t, &len), 0);
    ck_assert_str_eq(t, "{\"parameters\":{}}");
    free(t);
    ck_assert_int_eq(varlink_message_format_reply(NULL, p, true, &t, &len), 0);
    ck_assert_str_eq(t, "{\"parameters\":{\"a\":1},\"continues\":true}");
    free(t);
    ck_assert_int_eq(varlink_message_format_reply("a.b.E", p, false, &t, &len), 0);
    ck_assert_str_eq(t, "{\"error\":\"a.b.E\",\"parameters\":{\"a\":1}}");
    free(t);
    ck_assert_int_eq(varlink_message_format_reply("\xff", p, false, &t, &len), -EINVAL);
    json_decref(p);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("idl");
    TCase *tc = tcase_create("idl");
    SRunner *runner;
    int failed;

    tcase_add_test(tc, parses);
    tcase_add_loop_test(tc, refuses_bad_text, 0, ARRAY_LEN(bad_texts));
    tcase_add_test(tc, refuses_deep_and_large_text);
    tcase_add_loop_test(tc, checks_parameters, 0, ARRAY_LEN(checks));
    tcase_add_test(tc, checks_out_and_errors);
    tcase_add_test(tc, recursion_is_bounded);
    tcase_add_loop_test(tc, parses_messages, 0, ARRAY_LEN(messages));
    tcase_add_test(tc, formats_messages);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
