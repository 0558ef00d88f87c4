#include <check.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/qmp.h"

static int parse(const char *line, struct qmp_message *ret, struct err *err) { return qmp_parse(line, strlen(line), ret, err); }

START_TEST(greeting)
{
    auto_qmp_message struct qmp_message m = { 0 };
    const char *line =
        "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 22, \"minor\": 2, \"major\": 7}, \"package\": \"\"}, \"capabilities\": [\"oob\"]}}";

    ck_assert_int_eq(parse(line, &m, NULL), 0);
    ck_assert_int_eq(m.kind, QMP_GREETING);
    ck_assert_uint_eq(m.id, 0);
    ck_assert_ptr_nonnull(json_object_get(m.data, "capabilities"));
}
END_TEST

START_TEST(return_with_id)
{
    auto_qmp_message struct qmp_message m = { 0 };

    ck_assert_int_eq(parse("{\"return\": {\"running\": true}, \"id\": 9223372036854775807}\r", &m, NULL), 0);
    ck_assert_int_eq(m.kind, QMP_RETURN);
    ck_assert_uint_eq(m.id, INT64_MAX);
    ck_assert(json_is_true(json_object_get(m.data, "running")));
}
END_TEST

START_TEST(return_of_any_type)
{
    auto_qmp_message struct qmp_message m = { 0 };

    ck_assert_int_eq(parse("{\"return\": \"text\\r\\n\", \"id\": 1}", &m, NULL), 0);
    ck_assert_str_eq(json_string_value(m.data), "text\r\n");
}
END_TEST

START_TEST(error_with_and_without_id)
{
    struct qmp_message m = { 0 };

    ck_assert_int_eq(parse("{\"id\": 7, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"no such\"}}", &m, NULL), 0);
    ck_assert_int_eq(m.kind, QMP_ERROR);
    ck_assert_uint_eq(m.id, 7);
    ck_assert_str_eq(m.name, "CommandNotFound");
    ck_assert_str_eq(m.text, "no such");
    qmp_message_done(&m);
    ck_assert_ptr_null(m.json);
    ck_assert_int_eq(parse("{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON parse error\"}}", &m, NULL), 0);
    ck_assert_uint_eq(m.id, 0);
    qmp_message_done(&m);
}
END_TEST

START_TEST(event)
{
    auto_qmp_message struct qmp_message m = { 0 };
    const char *line = "{\"timestamp\": {\"seconds\": 1, \"microseconds\": 2}, \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, "
                       "\"reason\": \"guest-shutdown\"}}";

    ck_assert_int_eq(parse(line, &m, NULL), 0);
    ck_assert_int_eq(m.kind, QMP_EVENT);
    ck_assert_str_eq(m.name, "SHUTDOWN");
    ck_assert_str_eq(json_string_value(json_object_get(m.data, "reason")), "guest-shutdown");
}
END_TEST

START_TEST(event_without_data)
{
    auto_qmp_message struct qmp_message m = { 0 };

    ck_assert_int_eq(parse("{\"event\": \"STOP\"}", &m, NULL), 0);
    ck_assert_ptr_null(m.data);
}
END_TEST

START_TEST(foreign_ids_are_none_of_ours)
{
    static const char *const ids[] = { "\"1\"", "-1", "0", "1.5", "null", "{}" };

    for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
        auto_qmp_message struct qmp_message m = { 0 };
        auto_free char *line = NULL;

        ck_assert_int_eq(str_format(&line, "{\"return\": {}, \"id\": %s}", ids[i]), 0);
        ck_assert_int_eq(parse(line, &m, NULL), 0);
        ck_assert_uint_eq(m.id, 0);
    }
}
END_TEST

START_TEST(garbage_is_refused)
{
    static const char *const lines[] = {
        "",
        "{",
        "[]",
        "1",
        "\"QMP\"",
        "{}",
        "{\"id\": 1}",
        "{\"event\": 1}",
        "{\"error\": \"x\"}",
        "{\"error\": {\"class\": \"x\"}}",
        "{\"error\": {\"class\": 1, \"desc\": \"x\"}}",
        "{\"return\": 1} {\"return\": 2}",
        "{\"return\": 1, \"return\": 2}",
        "\xff\xfe",
    };

    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        struct qmp_message m = { .id = 42 };
        struct err err = ERR_INIT;

        ck_assert_int_eq(parse(lines[i], &m, &err), -EINVAL);
        ck_assert(err_is_set(&err));
        ck_assert_ptr_nonnull(strstr(err.text, "QMP"));
        ck_assert_uint_eq(m.id, 42); /* untouched */
    }
}
END_TEST

START_TEST(line_over_the_limit_is_refused)
{
    auto_free char *line = malloc(QMP_LINE_MAX + 1);
    struct qmp_message m = { 0 };

    ck_assert_ptr_nonnull(line);
    memset(line, ' ', QMP_LINE_MAX + 1);
    line[0] = '{';
    line[QMP_LINE_MAX] = '}';
    ck_assert_int_eq(qmp_parse(line, QMP_LINE_MAX + 1, &m, NULL), -EMSGSIZE);
    ck_assert_int_eq(qmp_parse(line, QMP_LINE_MAX, &m, NULL), -EINVAL);
}
END_TEST

START_TEST(big_reply_is_taken)
{
    /* As query-qmp-schema answers: one line of some hundred kilobytes. */
    auto_json json_t *reply = json_pack("{s:[], s:i}", "return", "id", 1);
    auto_free char *line = NULL;
    auto_qmp_message struct qmp_message m = { 0 };
    size_t len;

    for (int i = 0; i < 5000; i++)
        json_array_append_new(json_object_get(reply, "return"), json_pack("{s:s, s:s}", "name", "query-status", "meta-type", "command"));
    ck_assert_int_eq(json_format(reply, &line, &len), 0);
    ck_assert_uint_gt(len, 207 * 1024);
    ck_assert_int_eq(qmp_parse(line, len, &m, NULL), 0);
    ck_assert_uint_eq(json_array_size(m.data), 5000);
}
END_TEST

START_TEST(command_without_arguments)
{
    auto_free char *line = NULL;
    size_t len = 0;

    ck_assert_int_eq(qmp_command("qmp_capabilities", NULL, 1, &line, &len), 0);
    ck_assert_str_eq(line, "{\"execute\":\"qmp_capabilities\",\"id\":1}");
    ck_assert_uint_eq(len, strlen(line));
}
END_TEST

START_TEST(command_arguments_stay_the_callers)
{
    auto_json json_t *arguments = json_pack("{s:s}", "filename", "line\nfeed \" \xe2\x98\x83");
    auto_json json_t *back = NULL;
    auto_free char *line = NULL;
    size_t len = 0;

    ck_assert_int_eq(qmp_command("__com.redhat_x-y", arguments, INT64_MAX, &line, &len), 0);
    ck_assert_uint_eq(arguments->refcount, 1);
    ck_assert_ptr_null(strchr(line, '\n')); /* one line, whatever is in it */
    ck_assert_int_eq(json_parse(line, len, &back, NULL), 0);
    ck_assert(json_equal(json_object_get(back, "arguments"), arguments));
    ck_assert(json_integer_value(json_object_get(back, "id")) == INT64_MAX);
}
END_TEST

START_TEST(bad_commands_are_refused)
{
    auto_json json_t *list = json_array();
    char *line = NULL;
    size_t len = 0;

    ck_assert_int_eq(qmp_command(NULL, NULL, 1, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("", NULL, 1, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("a b", NULL, 1, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("a\xff", NULL, 1, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("stop", list, 1, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("stop", NULL, 0, &line, &len), -EINVAL);
    ck_assert_int_eq(qmp_command("stop", NULL, (uint64_t)INT64_MAX + 1, &line, &len), -EINVAL);
    ck_assert_ptr_null(line);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("qmp");
    TCase *tc = tcase_create("codec");
    SRunner *runner = srunner_create(suite);

    tcase_add_test(tc, greeting);
    tcase_add_test(tc, return_with_id);
    tcase_add_test(tc, return_of_any_type);
    tcase_add_test(tc, error_with_and_without_id);
    tcase_add_test(tc, event);
    tcase_add_test(tc, event_without_data);
    tcase_add_test(tc, foreign_ids_are_none_of_ours);
    tcase_add_test(tc, garbage_is_refused);
    tcase_add_test(tc, line_over_the_limit_is_refused);
    tcase_add_test(tc, big_reply_is_taken);
    tcase_add_test(tc, command_without_arguments);
    tcase_add_test(tc, command_arguments_stay_the_callers);
    tcase_add_test(tc, bad_commands_are_refused);
    suite_add_tcase(suite, tc);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
