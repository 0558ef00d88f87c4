/* The store of images: names, records, what is newest, who uses what, holding and removing. */
#include <sys/file.h>
#include <sys/stat.h>

#include "lib/base/json.h"
#include "lib/images/newest.h"
#include "lib/images/remove.h"
#include "lib/images/store.h"
#include "lib/images/use.h"
#include "tests/unit/fixture.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"

START_TEST(names)
{
    static const char *const good[] = { "a", "1", "v1.2.3", "sp-vm_x+7", "A" };
    static const char *const bad[] = { "", ".", "..", ".a", "-a", "_a", "+a", "a/b", "a b", "a\n", "\xc3\xa4", "a%" };
    char longest[IMAGE_NAME_MAX + 2];

    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        ck_assert_msg(image_name_is_valid(good[i]), "%s", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(!image_name_is_valid(bad[i]), "%s", bad[i]);
    memset(longest, 'a', sizeof(longest));
    longest[IMAGE_NAME_MAX + 1] = '\0';
    ck_assert(!image_name_is_valid(longest));
    longest[IMAGE_NAME_MAX] = '\0';
    ck_assert(image_name_is_valid(longest));
    ck_assert(image_name_is_valid("auto") && !image_version_is_valid("auto") && image_version_is_valid("auto1"));
    ck_assert(image_role_is_valid("bios_amd") && image_role_is_valid("kernel2"));
    ck_assert(!image_role_is_valid("") && !image_role_is_valid("2k") && !image_role_is_valid("Kernel") && !image_role_is_valid("a-b"));
    ck_assert(image_sha256_is_valid(ZEROS) && !image_sha256_is_valid(ZEROS "0") && !image_sha256_is_valid("abc"));
}
END_TEST

/* A release with one file, as a pull leaves it. */
static void make_release(const struct image_store *store, const char *name, const char *version)
{
    struct image_file file = { .role = (char[]){ "image" }, .filename = (char[]){ "disk.img" }, .sha256 = (char[]){ ZEROS } };
    struct image_record record = { .schema = IMAGE_SCHEMA, .files = &file, .n_files = 1, .fetched_us = 1000000 };
    char path[IMAGE_PATH_MAX];
    auto_fd int folder = -1, fd = -1;

    record.name = strdup(name);
    record.version = strdup(version);
    ck_assert_int_eq(image_release_path(name, version, path), 0);
    ck_assert(mkdirat(store->fd, name, 0755) == 0 || errno == EEXIST);
    ck_assert_int_eq(mkdirat(store->fd, path, 0755), 0);
    folder = dir_open(store->fd, path);
    ck_assert_int_ge(folder, 0);
    fd = openat(folder, "disk.img", O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
    ck_assert_int_eq(fd_write_all(fd, "disk", 4), 0);
    ck_assert_int_eq(image_file_note(folder, &file), 0);
    ck_assert_int_eq(image_record_write(folder, &record), 0);
    free(record.name);
    free(record.version);
}

static struct image_store open_store(void)
{
    struct image_store store = IMAGE_STORE_NONE;

    ck_assert_int_eq(image_store_open(fixture.path, &store, NULL), 0);
    return store;
}

START_TEST(found_and_listed)
{
    auto_image_store struct image_store store = open_store();
    auto_image_release struct image_release one = { 0 }, newest = { 0 };
    auto_image_list struct image_list all = { 0 }, some = { 0 }, none = { 0 };
    auto_free char *path = NULL, *expected = NULL;
    struct err err = ERR_INIT;

    ck_assert_int_eq(image_release_find(&store, "vm", IMAGE_AUTO, &one, &err), -ENOENT);
    ck_assert_str_eq(err.id, "no-such-image");
    make_release(&store, "vm", "v9");
    make_release(&store, "vm", "v10");
    make_release(&store, "also", "1");
    ck_assert_int_eq(mkdirat(store.fd, "vm/.partial-v11", 0755), 0);
    ck_assert_int_eq(symlinkat("v9", store.fd, "vm/v12"), 0);

    ck_assert_int_eq(image_store_list(&store, NULL, &all), 0);
    ck_assert_uint_eq(all.n, 3);
    ck_assert_str_eq(all.items[0].name, "also");
    ck_assert_str_eq(all.items[1].version, "v10");
    ck_assert_str_eq(all.items[2].version, "v9");
    ck_assert_int_eq(image_store_list(&store, "vm", &some), 0);
    ck_assert_uint_eq(some.n, 2);
    ck_assert_int_eq(image_store_list(&store, "../vm", &none), 0);
    ck_assert_uint_eq(none.n, 0);

    ck_assert_int_eq(image_release_find(&store, "vm", IMAGE_AUTO, &newest, NULL), 0);
    ck_assert_str_eq(newest.version, "v10");
    ck_assert_uint_eq(newest.size, 4);
    path = image_release_file_path(&newest, "image");
    ck_assert_int_eq(str_format(&expected, "%s/images/vm/v10/disk.img", fixture.path), 0);
    ck_assert_str_eq(path, expected);
    ck_assert_ptr_null(image_release_file(&newest, "kernel"));
    ck_assert_int_eq(image_release_find(&store, "vm", "v9", &one, NULL), 0);
    ck_assert_int_eq(image_release_read(&store, "vm", "..", &one), -ENOENT);
    ck_assert_int_eq(image_release_read(&store, "..", "vm", &one), -ENOENT);
    ck_assert_int_eq(image_release_read(&store, "vm", "v12", &one), -ENOENT);
}
END_TEST

/* By size, time and inode, and nothing is read. */
START_TEST(changed_files)
{
    auto_image_store struct image_store store = open_store();
    auto_image_release struct image_release release = { 0 };
    const struct timespec touched[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };
    struct err err = ERR_INIT;

    make_release(&store, "vm", "v1");
    make_release(&store, "vm", "v2");
    ck_assert_int_eq(utimensat(store.fd, "vm/v2/disk.img", touched, 0), 0);
    ck_assert_int_eq(image_release_find(&store, "vm", "v2", &release, &err), -EINVAL);
    ck_assert_str_eq(err.id, "damaged");
    ck_assert_int_eq(image_release_find(&store, "vm", IMAGE_AUTO, &release, NULL), 0);
    ck_assert_str_eq(release.version, "v1");
    image_release_clear(&release);
    ck_assert_int_eq(unlinkat(store.fd, "vm/v1/disk.img", 0), 0);
    ck_assert_int_eq(image_release_read(&store, "vm", "v1", &release), 0);
    ck_assert_ptr_nonnull(strstr(release.problem, "disk.img"));
    image_release_clear(&release);
    err = ERR_INIT;
    ck_assert_int_eq(image_release_find(&store, "vm", IMAGE_AUTO, &release, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "no release of vm here is verified"));
}
END_TEST

START_TEST(bad_records)
{
    static const char *const bad[] = {
        "{",
        "{\"schema\": 1, \"name\": \"vm\", \"version\": \"v2\", \"files\": []}",
        "{\"schema\": 2, \"name\": \"vm\", \"version\": \"v1\", \"files\": []}",
        "{\"schema\": 1, \"name\": \"vm\", \"version\": \"../v1\", \"files\": []}",
        "{\"schema\": 1, \"name\": \"vm\", \"version\": \"v1\", \"files\": [{\"role\": \"image\", \"filename\": \"../../x\", \"size\": 1, "
        "\"sha256\": \"" ZEROS "\", \"mtime_ns\": 1, \"inode\": 1}]}",
    };
    auto_image_store struct image_store store = open_store();

    make_release(&store, "vm", "v1");
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        auto_image_release struct image_release release = { 0 };

        fixture_write("images/vm/v1/image.json", bad[i]);
        ck_assert_int_eq(image_release_read(&store, "vm", "v1", &release), 0);
        ck_assert_msg(release.problem, "%s", bad[i]);
    }
}
END_TEST

START_TEST(what_is_newest)
{
    auto_image_store struct image_store store = open_store();
    auto_image_newest struct image_newest newest = { 0 }, again = { 0 };
    auto_image_list struct image_list list = { 0 };

    ck_assert_int_eq(image_newest_read(store.fd, "vm", &newest), 0);
    ck_assert_ptr_null(image_newest_version(&newest));
    ck_assert_int_gt(image_newest_compare(&newest, "v10", "v9"), 0);
    for (const char *const *v = (const char *const[]){ "zebra", "ant", "zebra", "mule", NULL }; *v; v++)
        ck_assert_int_eq(image_newest_add(&newest, *v), 0);
    newest.checked_us = 5000;
    ck_assert_int_eq(image_newest_write(store.fd, "vm", &newest), 0);
    ck_assert_int_eq(image_newest_read(store.fd, "vm", &again), 0);
    ck_assert_str_eq(image_newest_version(&again), "mule");
    ck_assert_str_eq(again.history[1], "zebra");
    ck_assert_str_eq(again.history[2], "ant");
    ck_assert_ptr_null(again.history[3]);
    ck_assert_uint_eq(again.checked_us, 5000);
    ck_assert_int_gt(image_newest_compare(&again, "zebra", "ant"), 0);
    ck_assert_int_lt(image_newest_compare(&again, "zz", "ant"), 0);
    ck_assert_int_eq(image_newest_compare(&again, "ant", "ant"), 0);

    make_release(&store, "vm", "zz");
    make_release(&store, "vm", "ant");
    make_release(&store, "vm", "zebra");
    ck_assert_int_eq(image_store_list(&store, "vm", &list), 0);
    ck_assert_str_eq(list.items[0].version, "zebra");
    ck_assert_str_eq(list.items[1].version, "ant");
    ck_assert_str_eq(list.items[2].version, "zz");

    for (int i = 0; i < 2 * NEWEST_HISTORY_MAX; i++) {
        char version[16];

        (void)snprintf(version, sizeof(version), "r%d", i);
        ck_assert_int_eq(image_newest_add(&again, version), 0);
    }
    size_t n = 0;
    while (again.history[n])
        n++;
    ck_assert_uint_eq(n, NEWEST_HISTORY_MAX);
}
END_TEST

START_TEST(held_and_removed)
{
    auto_image_store struct image_store store = open_store();
    auto_fd int first = -1, second = -1;
    struct err err = ERR_INIT;
    uint64_t freed = 0;

    make_release(&store, "vm", "v1");
    ck_assert_int_eq(image_release_lock(&store, "vm", "v2", &first, NULL), -ENOENT);
    ck_assert(!image_is_locked(&store, "vm", "v1"));
    ck_assert_int_eq(image_release_lock(&store, "vm", "v1", &first, NULL), 0);
    ck_assert_int_eq(image_release_lock(&store, "vm", "v1", &second, NULL), 0);
    ck_assert(image_is_locked(&store, "vm", "v1"));
    first = fd_close(first);
    ck_assert_int_eq(image_remove(&store, -1, "vm", "v1", &freed, &err), -EBUSY);
    ck_assert_str_eq(err.id, "in-use");
    second = fd_close(second);
    ck_assert_int_eq(image_may_remove(&store, -1, "vm", "v1", NULL), 0);
    ck_assert_int_eq(image_remove(&store, -1, "vm", "v1", &freed, NULL), 0);
    ck_assert_uint_gt(freed, 0);
    ck_assert(!fixture_exists("images/vm/v1") && !fixture_exists("images/vm/.deleted-v1"));
    ck_assert_int_eq(image_remove(&store, -1, "vm", "v1", &freed, NULL), -ENOENT);
    ck_assert_int_eq(image_remove(&store, -1, "..", "images", &freed, NULL), -ENOENT);

    /* What a removal that was cut off has left. */
    ck_assert_int_eq(mkdirat(store.fd, "vm/.deleted-v0", 0755), 0);
    image_sweep(&store);
    ck_assert(!fixture_exists("images/vm/.deleted-v0"));
}
END_TEST

START_TEST(users)
{
    auto_strv struct strv vms = { 0 }, none = { 0 }, unsure = { 0 };
    auto_image_use struct image_use use = { 0 };
    auto_fd int fd = -1;
    bool unclear = true;

    ck_assert_int_eq(mkdirat(fixture.dir, "vms", 0755), 0);
    fd = dir_open(fixture.dir, "vms");
    ck_assert_int_eq(mkdirat(fd, "web", 0755), 0);
    ck_assert_int_eq(mkdirat(fd, "db", 0755), 0);
    ck_assert_int_eq(image_use_read(fd, "web", &use, NULL), -ENOENT);
    ck_assert_int_eq(image_use_write(fd, "web", "vm", "v1"), 0);
    ck_assert_int_eq(image_use_write(fd, "web", "../vm", "v1"), -EINVAL);
    ck_assert_int_eq(image_use_write(fd, "nobody", "vm", "v1"), -ENOENT);
    ck_assert_int_eq(image_use_read(fd, "web", &use, NULL), 0);
    ck_assert_str_eq(use.version, "v1");
    ck_assert_int_eq(image_users(fd, "vm", "v1", &vms, &unclear), 0);
    ck_assert_uint_eq(vms.n, 1);
    ck_assert_str_eq(vms.items[0], "web");
    ck_assert(!unclear);
    ck_assert_int_eq(image_users(fd, "vm", "v2", &none, &unclear), 0);
    ck_assert_uint_eq(none.n, 0);
    ck_assert_int_eq(image_use_remove(fd, "web"), 0);
    ck_assert_int_eq(image_use_remove(fd, "web"), 0);
    fixture_write("vms/db/image.json", "{}");
    ck_assert_int_eq(image_users(fd, "vm", "v2", &unsure, &unclear), 0);
    ck_assert(unclear && unsure.n == 1);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, names);
    tcase_add_test(tc, found_and_listed);
    tcase_add_test(tc, changed_files);
    tcase_add_test(tc, bad_records);
    tcase_add_test(tc, what_is_newest);
    tcase_add_test(tc, held_and_removed);
    tcase_add_test(tc, users);
}

int main(void) { return fixture_main("image_store", add_tests); }
