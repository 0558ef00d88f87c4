/* The spec a VM was launched with: read back whole, its native form by the plan's digest alone, and never guessed from what can't be read. */
#include <errno.h>
#include <sys/stat.h>

#include "lib/base/json.h"
#include "lib/manager/launch_record.h"
#include "tests/unit/fixture.h"

#define DIGEST "0123456789abcdef"

static void write_record(json_t *native)
{
    char folder[] = "/etc/vms", file[] = "web.json";
    auto_json json_t *spec = json_pack("{s:s}", "name", "web");
    const struct launch_record record = {
        .folder = folder, .file = file, .spec = spec, .native = native, .plan_digest = DIGEST, .gone = true
    };

    ck_assert_int_eq(mkdirat(fixture.dir, "web", 0700), 0);
    ck_assert_int_eq(launch_record_write(fixture.dir, "web", &record), 0);
}

START_TEST(written_and_read)
{
    auto_json json_t *native = json_pack("{s:s}", "memory", "1G"), *back = NULL;
    auto_launch_record struct launch_record record = { 0 };

    write_record(native);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), 0);
    ck_assert_str_eq(record.folder, "/etc/vms");
    ck_assert_str_eq(record.file, "web.json");
    ck_assert(record.gone);
    ck_assert_str_eq(record.known, "");
    back = launch_record_native(fixture.dir, "web", DIGEST);
    ck_assert(json_equal(back, native));
    ck_assert_ptr_null(launch_record_native(fixture.dir, "web", "fedcba9876543210"));
    ck_assert_ptr_null(launch_record_native(fixture.dir, "db", DIGEST));
}
END_TEST

START_TEST(another_plan_of_the_same_launch)
{
    auto_json json_t *newer = json_pack("{s:s}", "memory", "2G"), *back = NULL;
    auto_launch_record struct launch_record record = { 0 };

    ck_assert_int_eq(launch_record_note_plan(fixture.dir, "web", newer, "fedcba9876543210"), -ENOENT);
    write_record(NULL);
    ck_assert_ptr_null(launch_record_native(fixture.dir, "web", DIGEST));
    ck_assert_int_eq(launch_record_note_plan(fixture.dir, "web", newer, "fedcba9876543210"), 0);
    ck_assert_ptr_null(launch_record_native(fixture.dir, "web", DIGEST));
    back = launch_record_native(fixture.dir, "web", "fedcba9876543210");
    ck_assert(json_equal(back, newer));
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), 0);
    ck_assert(record.gone); /* what it was launched with is as it was */
    ck_assert_str_eq(json_string_value(json_object_get(record.spec, "name")), "web");
}
END_TEST

static const char *const bad[] = {
    "",
    "{\"schema\": 1, \"folder\": \"/etc/vms\", \"file\": \"web.json\", \"spec\"", /* torn */
    "[]",
    "{\"schema\": 0, \"folder\": \"/etc/vms\", \"file\": \"web.json\", \"spec\": {}}",
    "{\"schema\": 1, \"folder\": \"/etc/vms\", \"file\": \"web.json\", \"spec\": 7}",
    "{\"schema\": 1, \"folder\": \"/etc/vms\", \"spec\": {}}",
};

START_TEST(what_cannot_be_read_is_set_aside)
{
    auto_launch_record struct launch_record record = { 0 };

    ck_assert_int_eq(mkdirat(fixture.dir, "web", 0700), 0);
    fixture_write("web/spec.json", bad[_i]);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), -EINVAL);
    ck_assert(!fixture_exists("web/spec.json"));
    ck_assert(fixture_exists("web/spec.json.corrupt-1"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, written_and_read);
    tcase_add_test(tc, another_plan_of_the_same_launch);
    tcase_add_loop_test(tc, what_cannot_be_read_is_set_aside, 0, ARRAY_LEN(bad));
}

int main(void) { return fixture_main("launch_record", add_tests); }
