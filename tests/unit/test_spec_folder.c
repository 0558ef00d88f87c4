#include "lib/manager/spec_folder.h"

#include <sys/stat.h>

#include "lib/manager/launch_record.h"
#include "proto/launch.h"
#include "proto/states.h"
#include "tests/unit/fixture.h"

/* A file as if it had been written long ago. */
static void write_old(const char *name, const char *text)
{
    const struct timespec times[2] = { { .tv_sec = 1000000000 }, { .tv_sec = 1000000000 } };

    fixture_write(name, text);
    ck_assert_int_eq(utimensat(fixture.dir, name, times, 0), 0);
}

static void scan(const struct spec_folder *before, struct spec_folder *ret)
{
    ck_assert_int_eq(spec_folder_scan(fixture.dir, before, ret, NULL), 0);
}

START_TEST(names)
{
    ck_assert(spec_file_is("web.json"));
    ck_assert(!spec_file_is(".web.json.swp"));
    ck_assert(!spec_file_is(".web.json"));
    ck_assert(!spec_file_is("web.json~"));
    ck_assert(!spec_file_is("web.json.bak"));
    ck_assert(!spec_file_is(".json"));
    ck_assert(!spec_file_is("4913"));
}
END_TEST

START_TEST(what_there_is)
{
    auto_spec_folder struct spec_folder folder = { 0 };
    const struct spec_entry *e;

    fixture_write("web.json", "{\"name\": \"web\", \"enabled\": false, \"restart\": {\"policy\": \"never\"}}");
    fixture_write("b.json", "{\"name\": \"db\"}");
    fixture_write("half.json", "{\"name\": \"ha");
    fixture_write("nameless.json", "{\"memory\": \"1G\"}");
    fixture_write("list.json", "[1]");
    fixture_write(".web.json.swp", "b0VIM");
    fixture_write("web.json~", "{\"name\": \"web\"}");
    ck_assert_int_eq(mkdirat(fixture.dir, "folder.json", 0700), 0);
    ck_assert_int_eq(symlinkat("nowhere", fixture.dir, "link.json"), 0);
    scan(NULL, &folder);
    ck_assert_uint_eq(folder.n, 7);
    e = spec_folder_find(&folder, "web.json");
    ck_assert_str_eq(e->name, "web");
    ck_assert(!e->enabled && !e->error && e->json);
    ck_assert_int_eq(e->policy, RESTART_NEVER);
    ck_assert_uint_eq(strlen(e->digest), 16);
    e = spec_folder_find(&folder, "b.json");
    ck_assert_str_eq(e->name, "db");
    ck_assert(e->enabled);
    ck_assert_int_eq(e->policy, RESTART_ON_FAILURE);
    for (size_t i = 0; i < folder.n; i++) {
        bool good = streq(folder.items[i].file, "web.json") || streq(folder.items[i].file, "b.json");

        ck_assert_msg(!folder.items[i].error == good, "%s: %s", folder.items[i].file, folder.items[i].error);
        ck_assert(!folder.items[i].name == !good);
    }
    ck_assert(spec_folder_find(&folder, "link.json")->link);
    ck_assert_ptr_null(spec_folder_find(&folder, "web.json~"));
}
END_TEST

/* One that can't be read any more is still the VM's. */
START_TEST(broken_later)
{
    auto_spec_folder struct spec_folder first = { 0 }, second = { 0 };

    fixture_write("a.json", "{\"name\": \"web\"}");
    scan(NULL, &first);
    fixture_write("a.json", "{\"name\": \"we");
    scan(&first, &second);
    ck_assert_str_eq(second.items[0].name, "web");
    ck_assert_ptr_nonnull(strstr(second.items[0].error, "a.json: line 1"));
    ck_assert_str_eq(second.items[0].digest, "");
}
END_TEST

START_TEST(read_again_only_when_it_may_differ)
{
    auto_spec_folder struct spec_folder first = { 0 }, second = { 0 }, third = { 0 };

    write_old("a.json", "{\"name\": \"web\"}");
    scan(NULL, &first);
    /* Its ctime is of now: a change within the same tick would not show. */
    ck_assert(!first.items[0].settled);
    first.items[0].settled = true;
    scan(&first, &second);
    ck_assert_ptr_null(second.items[0].json);
    ck_assert_str_eq(second.items[0].digest, first.items[0].digest);
    ck_assert_str_eq(second.items[0].name, "web");
    second.items[0].settled = true;
    write_old("a.json", "{\"name\": \"wob\"}"); /* as long, as old */
    scan(&second, &third);
    ck_assert_str_eq(third.items[0].name, "wob");
    ck_assert_str_ne(third.items[0].digest, second.items[0].digest);
}
END_TEST

START_TEST(same_content_same_digest)
{
    auto_spec_folder struct spec_folder folder = { 0 };

    fixture_write("a.json", "{\"name\": \"web\", \"memory\": \"1G\"}");
    fixture_write("b.json", "{\n \"memory\":\"1G\",\n \"name\":\"web\" }\n");
    scan(NULL, &folder);
    ck_assert_str_eq(folder.items[0].digest, folder.items[1].digest);
}
END_TEST

START_TEST(folder_removed)
{
    auto_spec_folder struct spec_folder folder = { 0 };
    struct err err = ERR_INIT;
    auto_fd int fd = -1;

    ck_assert_int_eq(mkdirat(fixture.dir, "vms", 0700), 0);
    fd = dir_open(fixture.dir, "vms");
    ck_assert_int_eq(unlinkat(fixture.dir, "vms", AT_REMOVEDIR), 0);
    ck_assert_int_lt(spec_folder_scan(fd, NULL, &folder, &err), 0);
    ck_assert_str_ne(err.text, "");
}
END_TEST

START_TEST(launch_record)
{
    auto_launch_record struct launch_record record = { 0 }, again = { 0 };

    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), -ENOENT);
    ck_assert_int_eq(mkdirat(fixture.dir, "web", 0700), 0);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), -ENOENT);
    ck_assert_int_eq(str_set(&record.folder, "/etc/vms"), 0);
    ck_assert_int_eq(str_set(&record.file, "w.json"), 0);
    record.spec = json_pack("{s:s}", "name", "web");
    record.gone = true;
    snprintf(record.known, sizeof(record.known), "0123456789abcdef");
    ck_assert_int_eq(launch_record_write(fixture.dir, "web", &record), 0);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &again), 0);
    ck_assert_str_eq(again.folder, "/etc/vms");
    ck_assert_str_eq(again.file, "w.json");
    ck_assert_str_eq(again.known, "0123456789abcdef");
    ck_assert(again.gone);
    ck_assert(json_equal(again.spec, record.spec));
}
END_TEST

static const char *const bad_records[] = { "",
                                           "{",
                                           "[]",
                                           "{\"schema\": 1}",
                                           "{\"schema\": 1, \"folder\": \"/\", \"file\": \"a\"}",
                                           "{\"schema\": 0, \"folder\": \"/\", \"file\": \"a\", \"spec\": {}}",
                                           "{\"schema\": 1, \"folder\": \"/\", \"file\": \"a\", \"spec\": 1}" };

START_TEST(record_that_does_not_parse)
{
    struct launch_record record = { 0 };

    ck_assert_int_eq(mkdirat(fixture.dir, "web", 0700), 0);
    fixture_write("web/" FILE_SPEC, bad_records[_i]);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), -EINVAL);
    ck_assert_ptr_null(record.spec);
    ck_assert_int_eq(faccessat(fixture.dir, "web/" FILE_SPEC ".corrupt-1", F_OK, 0), 0);
    ck_assert_int_eq(launch_record_read(fixture.dir, "web", &record), -ENOENT);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, names);
    tcase_add_test(tc, what_there_is);
    tcase_add_test(tc, broken_later);
    tcase_add_test(tc, read_again_only_when_it_may_differ);
    tcase_add_test(tc, same_content_same_digest);
    tcase_add_test(tc, folder_removed);
    tcase_add_test(tc, launch_record);
    tcase_add_loop_test(tc, record_that_does_not_parse, 0, ARRAY_LEN(bad_records));
}

int main(void) { return fixture_main("spec_folder", add_tests); }
