/* The spec of a VM made from another's snapshot. */
#include "lib/manager/restore_spec.h"

#include "tests/unit/fixture.h"

#define WEB                                                                                                                  \
    "{\"name\": \"web\", \"memory\": \"1G\", \"disks\": [{\"name\": \"data\", \"size\": \"1G\"}], \"vsock\": {\"cid\": 7}, " \
    "\"network\": [{\"mode\": \"user\", \"mac\": \"52:54:00:12:34:56\", \"forward\": [{\"host\": \"127.0.0.1:80\", "         \
    "\"guest\": 80}, {\"host\": \"auto\", \"guest\": 22}, "                                                                  \
    "{\"host\": \"127.0.0.1:auto\", \"guest\": 23}]}, {\"mode\": \"tap\", \"ifname\": \"tap0\"}], "                          \
    "\"health\": [{\"type\": \"agent\"}], \"restart\": {\"policy\": \"always\"}}"

static json_t *parse(const char *text)
{
    json_t *json = NULL;
    struct err err = ERR_INIT;

    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s", err.text);
    return json;
}

static void same(const json_t *got, const char *wanted)
{
    auto_json json_t *json = parse(wanted);
    auto_free char *text = NULL;

    ck_assert_int_eq(json_format(got, &text, NULL), 0);
    ck_assert_msg(json_equal(got, json), "%s", text);
}

START_TEST(another_vm)
{
    auto_json json_t *from = parse(WEB), *notes = json_array(), *spec = NULL;

    ck_assert_int_eq(restore_spec_make(from, "web", "copy", notes, &spec), 0);
    same(spec,
         "{\"name\": \"copy\", \"memory\": \"1G\", \"disks\": [{\"name\": \"data\", \"size\": \"1G\"}], \"vsock\": {\"cid\": \"auto\"}, "
         "\"network\": [{\"mode\": \"user\", \"forward\": [{\"host\": \"auto\", \"guest\": 22}, {\"host\": \"127.0.0.1:auto\", "
         "\"guest\": 23}]}, {\"mode\": \"tap\", \"ifname\": "
         "\"tap0\"}], \"health\": [{\"type\": \"agent\"}], \"restart\": {\"policy\": \"always\"}}");
    same(notes, "[\"its host port is not forwarded: web has it\", \"its vsock context id is given anew: web has the one of the spec\"]");
    same(from, WEB);
}
END_TEST

START_TEST(the_same_vm)
{
    auto_json json_t *from = parse(WEB), *notes = json_array(), *spec = NULL;

    ck_assert_int_eq(restore_spec_make(from, "web", "web", notes, &spec), 0);
    same(spec, WEB);
    same(notes, "[]");
}
END_TEST

START_TEST(several_ports)
{
    auto_json json_t *from = parse("{\"network\": [{\"forward\": [{\"host\": \":80\"}]}, {\"forward\": [{\"host\": \":81\"}]}]}");
    auto_json json_t *notes = json_array(), *spec = NULL;

    ck_assert_int_eq(restore_spec_make(from, "web", "copy", notes, &spec), 0);
    same(spec, "{\"name\": \"copy\", \"network\": [{}, {}]}");
    same(notes, "[\"its host ports are not forwarded: web has them\"]");
}
END_TEST

START_TEST(hidden)
{
    auto_json json_t *from = parse(WEB), *spec = NULL;

    ck_assert_int_eq(restore_spec_make_hidden(from, "warm-1", &spec), 0);
    same(spec,
         "{\"name\": \"warm-1\", \"memory\": \"1G\", \"disks\": [{\"name\": \"data\", \"size\": \"1G\"}], \"vsock\": {\"cid\": \"auto\"}, "
         "\"network\": [{\"mode\": \"user\", \"mac\": \"52:54:00:12:34:56\"}, {}], \"agent\": true, "
         "\"restart\": {\"policy\": \"never\"}, \"stop\": {\"timeout\": \"0\"}}");
}
END_TEST

/* Whatever is in a file: it was checked when it was applied, but by an earlier version, perhaps. */
START_TEST(strange)
{
    static const char *const specs[] = { "{\"network\": 5, \"vsock\": \"x\"}",
                                         "{\"network\": [1, null, {\"forward\": {}}], \"health\": {}}",
                                         "{\"network\": [{\"forward\": [null, 7, {}]}], \"health\": [1]}" };
    auto_json json_t *from = parse(specs[_i]), *notes = json_array(), *spec = NULL, *unseen = NULL;

    ck_assert_int_eq(restore_spec_make(from, "web", "copy", notes, &spec), 0);
    ck_assert_int_eq(restore_spec_make_hidden(from, "copy", &unseen), 0);
    ck_assert_ptr_null(restore_spec_same_tap(from, spec));
}
END_TEST

START_TEST(taps)
{
    auto_json json_t *web = parse(WEB);
    auto_json json_t *other =
        parse("{\"network\": [{\"mode\": \"tap\", \"ifname\": \"tap1\"}, {\"mode\": \"user\", \"ifname\": \"tap0\"}]}");
    auto_json json_t *same_one = parse("{\"network\": [{\"mode\": \"tap\", \"ifname\": \"tap0\"}]}");

    ck_assert_ptr_null(restore_spec_same_tap(web, other));
    ck_assert_str_eq(restore_spec_same_tap(web, same_one), "tap0");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, another_vm);
    tcase_add_test(tc, the_same_vm);
    tcase_add_test(tc, several_ports);
    tcase_add_test(tc, hidden);
    tcase_add_loop_test(tc, strange, 0, 3);
    tcase_add_test(tc, taps);
}

int main(void) { return fixture_main("restore_spec", add_tests); }
