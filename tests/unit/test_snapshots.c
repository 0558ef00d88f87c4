/* The store of snapshots: what is found, told to be damaged, swept and deleted; what is compared; how memory is drawn. */
#include "lib/manager/snapshots.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/manager/snapshot_coverage.h"
#include "lib/manager/snapshot_users.h"
#include "lib/manager/snapshot_verify.h"
#include "lib/manager/state.h"
#include "proto/launch.h"
#include "tests/unit/fixture.h"

enum { PAGES = 256 };

#define ID "0123456789abcdef0123456789abcdef"

static int store = -1, run_vms = -1;

static void make(const char *path) { ck_assert_int_eq(mkdirat(fixture.dir, path, 0700), 0); }

static void put(int folder, const char *file, const void *data, size_t len)
{
    ck_assert_int_eq(file_write(folder, file, data, len, 0600, FILE_ATOMIC), 0);
}

static void put_record(int folder, const struct snapshot *s)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;

    ck_assert_int_eq(snapshot_to_json(s, &json), 0);
    ck_assert_int_eq(json_format(json, &text, &len), 0);
    put(folder, FILE_SNAPSHOT, text, len);
}

/* Pages 0, 4, 8 … are present and filled with their number plus 1. */
static void put_memory(int folder, uint64_t *ret_present)
{
    auto_memory_index struct memory_index *index = NULL;
    static char memory[PAGES * IMAGE_PAGE];
    auto_free void *data = NULL;
    size_t len;

    ck_assert_int_eq(memory_index_new(sizeof(memory), &index), 0);
    memset(memory, 0, sizeof(memory));
    for (uint64_t page = 0; page < PAGES; page += 4) {
        memset(memory + page * IMAGE_PAGE, (int)page / 4 + 1, IMAGE_PAGE);
        memory_index_set(index, page, memory_page_sum(memory + page * IMAGE_PAGE));
    }
    *ret_present = memory_index_present(index);
    ck_assert_int_eq(memory_index_encode(index, &data, &len), 0);
    put(folder, FILE_MEMORY, memory, sizeof(memory));
    put(folder, FILE_MEMORY_INDEX, data, len);
}

static void make_snapshot(const char *vm, const char *name, uint64_t created)
{
    auto_stream_sum struct stream_sum *sum = NULL;
    char sum_text[STREAM_SUM_TEXT_MAX], path[128];
    auto_snapshot struct snapshot s = { .schema = SNAPSHOT_SCHEMA,
                                        .created = created,
                                        .ram_size = PAGES * IMAGE_PAGE,
                                        .page_size = IMAGE_PAGE,
                                        .state_size = 5,
                                        .live = true,
                                        .pause_us = 1000 };
    auto_fd int folder = -1;

    snprintf(path, sizeof(path), "snapshots/%s", vm);
    (void)mkdirat(fixture.dir, path, 0700);
    snprintf(path, sizeof(path), "snapshots/%s/%s", vm, name);
    make(path);
    folder = dir_open(fixture.dir, path);
    ck_assert_int_ge(folder, 0);
    ck_assert_int_eq(stream_sum_new(&sum), 0);
    stream_sum_add(sum, "state", 5);
    put(folder, FILE_DEVICE_STATE, "state", 5);
    put_memory(folder, &s.present_pages);
    s.vm = strdup(vm);
    s.name = strdup(name);
    s.id = strdup(ID);
    s.state_sum = strdup(stream_sum_text(sum, sum_text));
    s.hardware = (struct hardware){ .machine = strdup("pc-q35-7.2"),
                                    .accel = strdup("tcg"),
                                    .cpu = strdup("max"),
                                    .cpus = 1,
                                    .memory = PAGES * IMAGE_PAGE,
                                    .qemu_version = strdup("7.2.0") };
    put_record(folder, &s);
}

static void setup(void)
{
    fixture_setup();
    make("snapshots");
    make("run");
    store = dir_open(fixture.dir, "snapshots");
    run_vms = dir_open(fixture.dir, "run");
    ck_assert(store >= 0 && run_vms >= 0);
}

static void teardown(void)
{
    store = fd_close(store);
    run_vms = fd_close(run_vms);
    fixture_teardown();
}

START_TEST(whole)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_json json_t *json = NULL;

    make_snapshot("web", "before", 5);
    ck_assert_int_eq(snapshots_read(store, "web", "before", &info), 0);
    ck_assert_ptr_null(info.damaged);
    ck_assert_str_eq(info.found.id, ID);
    ck_assert_uint_eq(info.found.present_pages, PAGES / 4);
    ck_assert(!info.working_set && info.disk_bytes >= PAGES / 4 * IMAGE_PAGE);
    json = snapshot_to_wire_consume(&info, json_array());
    ck_assert_int_eq(json_integer_value(json_object_get(json, "present")), PAGES / 4 * IMAGE_PAGE);
    ck_assert_ptr_null(json_object_get(json, "damaged"));
}
END_TEST

START_TEST(not_there)
{
    static const char *const names[] = { "other", "..", "", ".before.tmp", "a/b", "file" };
    struct snapshot_info info;

    make_snapshot("web", "before", 5);
    fixture_write("snapshots/web/file", "");
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        ck_assert_int_eq(snapshots_read(store, "web", names[i], &info), -ENOENT);
    ck_assert_int_eq(snapshots_read(store, "..", "run", &info), -ENOENT);
    ck_assert_int_eq(snapshots_read(store, "db", "before", &info), -ENOENT);
}
END_TEST

/* What happens to a file, and what is said. */
static const struct {
    const char *file, *text, *says;
} damages[] = {
    { FILE_SNAPSHOT, "{", FILE_SNAPSHOT ": line 1" },
    { FILE_SNAPSHOT, "{\"schema\": 99}", FILE_SNAPSHOT },
    { FILE_SNAPSHOT, NULL, FILE_SNAPSHOT ": No such file" },
    { FILE_MEMORY, "short", FILE_MEMORY " has 5 bytes, expected 1048576" },
    { FILE_MEMORY, NULL, FILE_MEMORY ": No such file" },
    { FILE_MEMORY_INDEX, "", FILE_MEMORY_INDEX " has 0 bytes" },
    { FILE_DEVICE_STATE, "longer than it was", FILE_DEVICE_STATE " has 18 bytes, expected 5" },
};

START_TEST(damaged)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_snapshot_list struct snapshot_list list = { 0 };
    char path[128];

    make_snapshot("web", "before", 5);
    snprintf(path, sizeof(path), "snapshots/web/before/%s", damages[_i].file);
    if (damages[_i].text)
        fixture_write(path, damages[_i].text);
    else
        ck_assert_int_eq(unlinkat(fixture.dir, path, 0), 0);
    ck_assert_int_eq(snapshots_read(store, "web", "before", &info), 0);
    ck_assert_msg(info.damaged && strstr(info.damaged, damages[_i].says), "\"%s\" doesn't say %s", info.damaged, damages[_i].says);
    ck_assert_int_eq(snapshots_list(store, NULL, &list), 0);
    ck_assert_uint_eq(list.n, 1);
}
END_TEST

START_TEST(moved)
{
    auto_snapshot_info struct snapshot_info info = { 0 };

    make_snapshot("web", "before", 5);
    ck_assert_int_eq(renameat(fixture.dir, "snapshots/web", fixture.dir, "snapshots/db"), 0);
    ck_assert_int_eq(snapshots_read(store, "db", "before", &info), 0);
    ck_assert_ptr_nonnull(strstr(info.damaged, "is the record of web/before"));
}
END_TEST

START_TEST(listed)
{
    static const char *const wanted[] = { "db/z", "vm-2/a", "vm-10/newer", "vm-10/older" };
    auto_snapshot_list struct snapshot_list list = { 0 }, one = { 0 }, none = { 0 };

    make_snapshot("vm-10", "older", 9);
    make_snapshot("vm-10", "newer", 7);
    make_snapshot("vm-2", "a", 1);
    make_snapshot("db", "z", 3);
    make("snapshots/db/.half.tmp");
    make("snapshots/.hidden");
    fixture_write("snapshots/file", "");
    ck_assert_int_eq(snapshots_list(store, NULL, &list), 0);
    ck_assert_uint_eq(list.n, ARRAY_LEN(wanted));
    for (size_t i = 0; i < list.n; i++) {
        char name[128];

        snprintf(name, sizeof(name), "%s/%s", list.items[i].vm, list.items[i].name);
        ck_assert_str_eq(name, wanted[i]);
    }
    ck_assert_int_eq(snapshots_list(store, "vm-10", &one), 0);
    ck_assert_uint_eq(one.n, 2);
    ck_assert_int_eq(snapshots_list(store, "nobody", &none), 0);
    ck_assert_uint_eq(none.n, 0);
}
END_TEST

START_TEST(not_deleted_while_its_pages_are_needed)
{
    auto_fd int dir = -1, image = -1;

    make_snapshot("web", "one", 1);
    dir = snapshots_open(store, "web", "one");
    image = openat(dir, FILE_MEMORY, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(flock(image, LOCK_SH), 0);
    ck_assert_int_eq(snapshots_delete(store, "web", "one"), -EBUSY);
    ck_assert(fixture_exists("snapshots/web/one"));
    image = fd_close(image);
    ck_assert_int_eq(snapshots_delete(store, "web", "one"), 0);
}
END_TEST

START_TEST(deleted)
{
    make_snapshot("web", "one", 1);
    make_snapshot("web", "two", 2);
    ck_assert_int_eq(snapshots_delete(store, "web", "one"), 0);
    ck_assert(!fixture_exists("snapshots/web/one") && !fixture_exists("snapshots/web/.one.deleted"));
    ck_assert_int_eq(snapshots_delete(store, "web", "one"), -ENOENT);
    ck_assert_int_eq(snapshots_delete(store, "web", "two"), 0);
    ck_assert(!fixture_exists("snapshots/web"));
    ck_assert_int_eq(snapshots_make_folder(store, "web"), 0);
    ck_assert_int_eq(snapshots_make_folder(store, "web"), 0);
    snapshots_drop_folder(store, "web");
    ck_assert(!fixture_exists("snapshots/web"));
}
END_TEST

START_TEST(swept)
{
    auto_fd int lock = -1;

    make_snapshot("web", "one", 1);
    make_snapshot("db", "one", 1);
    make("snapshots/web/.two.tmp");
    make("snapshots/web/.old.deleted");
    make("snapshots/web/.deleted-one.tmp"); /* one that is called deleted-one is being made */
    make("snapshots/web/.tmp");
    make("snapshots/db/.two.tmp");
    make("run/web");
    lock = lock_take(run_vms, "web/" FILE_SHIM_LOCK);
    ck_assert_int_ge(lock, 0);
    ck_assert_uint_eq(snapshots_sweep(store, run_vms), 2);
    ck_assert(fixture_exists("snapshots/web/.two.tmp") && !fixture_exists("snapshots/web/.old.deleted"));
    ck_assert(fixture_exists("snapshots/web/.deleted-one.tmp") && !fixture_exists("snapshots/db/.two.tmp"));
    lock = fd_close(lock);
    ck_assert_uint_eq(snapshots_sweep(store, run_vms), 2);
    ck_assert(!fixture_exists("snapshots/web/.two.tmp") && fixture_exists("snapshots/web/.tmp"));
    ck_assert(fixture_exists("snapshots/web/one") && fixture_exists("snapshots/db/one"));
}
END_TEST

/* ---- verify ---- */

static int verify(struct err *err, uint64_t *ret_pages, bool cancelled)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    struct verify_progress progress = { .cancelled = cancelled };
    auto_fd int folder = snapshots_open(store, "web", "before");
    int r;

    ck_assert_int_eq(snapshots_read(store, "web", "before", &info), 0);
    ck_assert_ptr_null(info.damaged);
    *err = ERR_INIT;
    r = snapshot_verify(folder, &info.found, &progress, ret_pages, err);
    if (r >= 0)
        ck_assert_uint_eq(progress.done, progress.total);
    return r;
}

static void spoil(const char *file, off_t at)
{
    auto_fd int folder = snapshots_open(store, "web", "before");
    auto_fd int fd = openat(folder, file, O_WRONLY | O_CLOEXEC);

    ck_assert_int_eq((int)pwrite(fd, "?", 1, at), 1);
}

START_TEST(verified)
{
    uint64_t pages = 0;
    struct err err;

    make_snapshot("web", "before", 5);
    ck_assert_msg(verify(&err, &pages, false) == 0, "%s", err.text);
    ck_assert_uint_eq(pages, PAGES / 4);
    ck_assert_int_eq(verify(&err, &pages, true), -ECANCELED);
    spoil(FILE_MEMORY, 1 * IMAGE_PAGE); /* of a page that isn't the guest's: nobody will look at it */
    ck_assert_int_eq(verify(&err, &pages, false), 0);
    spoil(FILE_MEMORY, 8 * IMAGE_PAGE + 4095);
    spoil(FILE_MEMORY, 252 * IMAGE_PAGE);
    ck_assert_int_eq(verify(&err, &pages, false), -EINVAL);
    ck_assert_str_eq(err.text, "memory.raw is damaged: 2 of 64 pages don't have their checksum, the first is page 8 at offset 0x8000");
    spoil(FILE_MEMORY_INDEX, 70);
    ck_assert_int_eq(verify(&err, &pages, false), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, FILE_MEMORY_INDEX));
}
END_TEST

START_TEST(verified_state_and_working_set)
{
    struct working_set set = { .snapshot_id = "fedcba9876543210fedcba9876543210", .ram_size = PAGES * IMAGE_PAGE };
    auto_free void *data = NULL;
    auto_fd int folder = -1;
    uint64_t pages = 0;
    struct err err;
    size_t len;

    make_snapshot("web", "before", 5);
    folder = snapshots_open(store, "web", "before");
    ck_assert_int_eq(working_set_encode(&set, &data, &len), 0);
    put(folder, FILE_WORKING_SET, data, len);
    ck_assert_int_eq(verify(&err, &pages, false), -EINVAL);
    ck_assert_str_eq(err.text, "working-set: it was learned from another snapshot");
    spoil(FILE_DEVICE_STATE, 0);
    ck_assert_int_eq(verify(&err, &pages, false), -EINVAL);
    ck_assert_ptr_nonnull(strstr(err.text, "device.state is damaged: its checksum is "));
}
END_TEST

/* ---- who uses it ---- */

START_TEST(used)
{
    static const struct {
        enum snapshot_use use;
        const char *name, *text;
    } all[] = {
        { USE_DISKS, "copy", "{\"path\": \"/state/snapshots/web/before/disks/disk0.qcow2\"}" },
        { USE_DISKS, "copy", "and once more: /state/snapshots/web/before/disks/disk1.qcow2" },
        { USE_DISKS, "other", "/state/snapshots/web/before-that/disks/disk0.qcow2" },
        { USE_DISKS, "snapshot web/before", "/state/snapshots/web/before/disks/disk0.qcow2" },
        { USE_DISKS, "snapshot copy/later", "/state/snapshots/web/before/disks/disk0.qcow2" },
        { USE_MEMORY, "lazy", "web/before" },
        { USE_MEMORY, "another", "web/before2" },
        { USE_UNKNOWN, "silent", NULL },
    };
    static char state[] = "/state";
    struct manager m = { .dirs = { .state = state }, .run_fd = run_vms };
    auto_snapshot_users struct snapshot_users *users = snapshot_users_new();
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_json json_t *names = NULL;
    auto_free char *text = NULL;
    const char *silent = NULL;

    make_snapshot("web", "before", 5);
    ck_assert_int_eq(snapshots_read(store, "web", "before", &info), 0);
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        ck_assert_int_eq(snapshot_users_add(users, all[i].use, all[i].name, all[i].text), 0);
    ck_assert_int_eq(snapshot_users_of(users, &m, &info, &names, &silent), 0);
    ck_assert_int_eq(json_format(names, &text, NULL), 0);
    ck_assert_str_eq(text, "[\"copy\",\"snapshot copy/later\",\"lazy\"]");
    ck_assert_str_eq(silent, "silent");
}
END_TEST

/* ---- coverage ---- */

START_TEST(covered)
{
    struct coverage c = { .pages = 6400 };

    coverage_add(&c, 0, 100);     /* the first part whole */
    coverage_add(&c, 199, 2);     /* one page in each of two */
    coverage_add(&c, 6399, 1);    /* the very last */
    coverage_add(&c, 3150, 1000); /* over many */
    ck_assert_uint_eq(c.covered, 1103);
    ck_assert_uint_eq(coverage_percent(&c, 0), 100);
    ck_assert_uint_eq(coverage_percent(&c, 1), 1);
    ck_assert_uint_eq(coverage_percent(&c, 2), 1);
    ck_assert_uint_eq(coverage_percent(&c, 3), 0);
    ck_assert_uint_eq(coverage_percent(&c, 31), 50);
    ck_assert_uint_eq(coverage_percent(&c, 32), 100);
    ck_assert_uint_eq(coverage_percent(&c, 41), 50);
    ck_assert_uint_eq(coverage_percent(&c, 63), 1);
}
END_TEST

/* However many pages there are, each is in one part, and all of them are 100 %. */
START_TEST(covered_whole)
{
    static const uint64_t sizes[] = { 1, 2, 63, 64, 65, 1000, 4097, UINT64_C(1) << 32 };
    struct coverage c = { .pages = sizes[_i] };
    uint64_t counted = 0;

    if (c.pages <= 4097) {
        for (uint64_t page = 0; page < c.pages; page++)
            coverage_add(&c, page, 1);
    } else {
        coverage_add(&c, 0, c.pages);
    }
    for (unsigned part = 0; part < COVERAGE_PARTS; part++) {
        counted += c.counts[part];
        ck_assert(coverage_percent(&c, part) == 100 || (c.pages < COVERAGE_PARTS && coverage_percent(&c, part) == 0));
    }
    ck_assert_uint_eq(counted, c.pages);
}
END_TEST

START_TEST(covered_none)
{
    struct coverage c = { 0 };
    auto_json json_t *json = coverage_to_wire(&c);

    coverage_add(&c, 0, 1);
    ck_assert_uint_eq(json_array_size(json), COVERAGE_PARTS);
    ck_assert_uint_eq(coverage_percent(&c, 0), 0);
}
END_TEST

START_TEST(covered_by_working_set)
{
    struct page_run runs[] = { { 300, 4 }, { 0, 2 }, { 1, 3 }, { 302, 2 } };
    const struct working_set set = { .ram_size = 640 * IMAGE_PAGE, .runs = runs, .n_runs = ARRAY_LEN(runs) };
    struct coverage c;

    ck_assert_int_eq(coverage_of_working_set(&set, &c), 0);
    ck_assert_uint_eq(c.covered, 8);
    ck_assert_uint_eq(coverage_percent(&c, 0), 40);
    ck_assert_uint_eq(coverage_percent(&c, 30), 40);
}
END_TEST

START_TEST(default_name)
{
    char name[SNAPSHOT_NAME_MAX];

    snapshots_default_name(name);
    ck_assert(name_is_valid(name) && strlen(name) == strlen("20261125-191500"));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("snapshots");
    TCase *tc = tcase_create("snapshots");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, whole);
    tcase_add_test(tc, not_there);
    tcase_add_loop_test(tc, damaged, 0, ARRAY_LEN(damages));
    tcase_add_test(tc, moved);
    tcase_add_test(tc, listed);
    tcase_add_test(tc, not_deleted_while_its_pages_are_needed);
    tcase_add_test(tc, deleted);
    tcase_add_test(tc, swept);
    tcase_add_test(tc, verified);
    tcase_add_test(tc, verified_state_and_working_set);
    tcase_add_test(tc, used);
    tcase_add_test(tc, covered);
    tcase_add_loop_test(tc, covered_whole, 0, 8);
    tcase_add_test(tc, covered_none);
    tcase_add_test(tc, covered_by_working_set);
    tcase_add_test(tc, default_name);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
