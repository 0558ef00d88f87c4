/* What a delete removes, keeps, and can be done again after. */
#include "lib/manager/forget.h"

#include <sys/stat.h>

#include "proto/launch.h"
#include "tests/unit/fixture.h"

static struct forget_dirs dirs;
static const char *const folders[] = { "run", "state", "log", "specs" };

static void make(const char *path) { ck_assert_int_eq(mkdirat(fixture.dir, path, 0700), 0); }

static void setup(void)
{
    int *fds[] = { &dirs.run_vms_fd, &dirs.state_vms_fd, &dirs.log_fd, &dirs.specs_fd };

    fixture_setup();
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        make(folders[i]);
        *fds[i] = dir_open(fixture.dir, folders[i]);
        ck_assert_int_ge(*fds[i], 0);
    }
    dirs.state_path = "/state";
    dirs.log_path = "/log";
    make("run/web");
    make("state/web");
    make("log/web");
    fixture_write("run/web/" FILE_STATUS, "{}");
    fixture_write("run/web/" FILE_VM_LOCK, "");
    fixture_write("state/web/" FILE_WANTED, "{}");
    fixture_write("state/web/" FILE_LAST_EXIT, "{}");
    fixture_write("state/web/" FILE_LAST_EXIT ".corrupt-1", "{");
    fixture_write("state/web/" FILE_EVENTS, "");
    fixture_write("state/web/." FILE_WANTED ".tmp", "");
    fixture_write("log/web/" FILE_CONSOLE_LOG, "");
    fixture_write("specs/web.json", "{}");
    make("state/other");
    fixture_write("state/other/" FILE_WANTED, "{}");
}

static void teardown(void)
{
    fd_close(dirs.run_vms_fd);
    fd_close(dirs.state_vms_fd);
    fd_close(dirs.log_fd);
    fd_close(dirs.specs_fd);
    ck_assert(fixture_exists("state/other/" FILE_WANTED));
    fixture_teardown();
}

static json_t *forget(bool purge)
{
    json_t *kept = NULL;

    ck_assert_int_eq(forget_files(&dirs, "web", "web.json", purge, &kept, NULL), 0);
    ck_assert(!fixture_exists("run/web"));
    ck_assert(!fixture_exists("specs/web.json"));
    ck_assert(!fixture_exists("state/web/" FILE_WANTED));
    ck_assert(!fixture_exists("state/.deleted-web"));
    return kept;
}

START_TEST(without_disks)
{
    auto_json json_t *kept = forget(false);

    ck_assert(!fixture_exists("state/web"));
    ck_assert_uint_eq(json_array_size(kept), 1);
    ck_assert_str_eq(json_string_value(json_array_get(kept, 0)), "/log/web");
    ck_assert(fixture_exists("log/web/" FILE_CONSOLE_LOG));
}
END_TEST

START_TEST(disks_are_kept)
{
    auto_json json_t *kept = NULL, *again = NULL;

    fixture_write("state/web/data.qcow2", "disk");
    kept = forget(false);
    ck_assert_uint_eq(json_array_size(kept), 2);
    ck_assert_str_eq(json_string_value(json_array_get(kept, 0)), "/state/web/data.qcow2");
    fixture_assert_content("state/web/data.qcow2", "disk");
    ck_assert(!fixture_exists("state/web/" FILE_LAST_EXIT));
    ck_assert(!fixture_exists("state/web/" FILE_LAST_EXIT ".corrupt-1"));
    ck_assert(!fixture_exists("state/web/" FILE_EVENTS));
    ck_assert(!fixture_exists("state/web/." FILE_WANTED ".tmp"));
    /* Cut off behind the last step, and done again. */
    again = forget(false);
    ck_assert_uint_eq(json_array_size(again), 2);
}
END_TEST

START_TEST(purge)
{
    auto_json json_t *kept = NULL, *again = NULL;

    fixture_write("state/web/data.qcow2", "disk");
    make("state/.deleted-web"); /* an earlier one that was cut off */
    fixture_write("state/.deleted-web/data.qcow2", "older");
    kept = forget(true);
    ck_assert_uint_eq(json_array_size(kept), 0);
    ck_assert(!fixture_exists("state/web"));
    ck_assert(!fixture_exists("log/web"));
    again = forget(true);
    ck_assert_uint_eq(json_array_size(again), 0);
}
END_TEST

/* With anything alive nothing at all is touched. */
START_TEST(alive)
{
    json_t *kept = NULL;
    auto_fd int lock = lock_take(fixture.dir, _i ? "run/web/" FILE_VM_LOCK : "run/web/" FILE_SHIM_LOCK);

    ck_assert_int_ge(lock, 0);
    ck_assert_int_eq(forget_files(&dirs, "web", "web.json", true, &kept, NULL), -EBUSY);
    ck_assert_ptr_null(kept);
    ck_assert(fixture_exists("run/web/" FILE_STATUS));
    ck_assert(fixture_exists("state/web/" FILE_WANTED));
    ck_assert(fixture_exists("specs/web.json"));
    ck_assert(fixture_exists("log/web"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("forget");
    TCase *tc = tcase_create("forget");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, without_disks);
    tcase_add_test(tc, disks_are_kept);
    tcase_add_test(tc, purge);
    tcase_add_loop_test(tc, alive, 0, 2);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
