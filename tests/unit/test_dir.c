#include <sys/stat.h>

#include "lib/base/file.h"
#include "tests/unit/fixture.h"

static char *path_of(const char *rest)
{
    char *path = NULL;
    ck_assert_int_eq(str_format(&path, "%s/%s", fixture.path, rest), 0);
    return path;
}

START_TEST(make_gives_its_mode_to_what_it_makes)
{
    umask(077);
    ck_assert_int_eq(mkdirat(fixture.dir, "old", 0710), 0);
    struct stat st;
    ck_assert_int_eq(fstatat(fixture.dir, "old", &st, 0), 0);
    mode_t old_mode = st.st_mode;
    auto_free char *path = path_of("old//a/b/");
    struct err err = ERR_INIT;
    ck_assert_int_eq(dir_make(path, 0751, &err), 0);
    ck_assert_int_eq(fstatat(fixture.dir, "old/a", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0751);
    ck_assert_int_eq(fstatat(fixture.dir, "old/a/b", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode & 07777, 0751);
    ck_assert_int_eq(fstatat(fixture.dir, "old", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode, old_mode);
    ck_assert_int_eq(dir_make(path, 0700, &err), 0);
    ck_assert_int_eq(dir_make("/", 0700, &err), 0);
}
END_TEST

START_TEST(make_follows_an_existing_symlink)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "real", 0700), 0);
    ck_assert_int_eq(symlinkat("real", fixture.dir, "link"), 0);
    auto_free char *path = path_of("link/a");
    ck_assert_int_eq(dir_make(path, 0700, NULL), 0);
    ck_assert(fixture_exists("real/a"));
}
END_TEST

START_TEST(make_says_which_folder_failed)
{
    fixture_write("file", "");
    auto_free char *path = path_of("file/a/b");
    auto_free char *part = path_of("file");
    struct err err = ERR_INIT;
    ck_assert_int_eq(dir_make(path, 0700, &err), -ENOTDIR);
    ck_assert_ptr_nonnull(strstr(err.text, part));
    ck_assert_ptr_null(strstr(err.text, "file/a"));
    ck_assert_int_eq(dir_make("relative/path", 0700, &err), -EINVAL);
    ck_assert_str_eq(err.id, "bad-path");
    ck_assert_int_eq(dir_make("", 0700, NULL), -EINVAL);
}
END_TEST

START_TEST(open_refuses_a_symlink)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "real", 0700), 0);
    ck_assert_int_eq(symlinkat("real", fixture.dir, "link"), 0);
    fixture_write("file", "");
    auto_fd int fd = dir_open(fixture.dir, "real");
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_lt(dir_open(fixture.dir, "link"), 0);
    ck_assert_int_eq(dir_open(fixture.dir, "file"), -ENOTDIR);
    ck_assert_int_eq(dir_open(fixture.dir, "none"), -ENOENT);
}
END_TEST

START_TEST(remove_tree_stays_inside)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "outside", 0700), 0);
    fixture_write("outside/precious", "x");
    auto_free char *deep = path_of("tree/a/b/c");
    ck_assert_int_eq(dir_make(deep, 0700, NULL), 0);
    fixture_write("tree/a/file", "x");
    fixture_write("tree/.hidden", "x");
    ck_assert_int_eq(symlinkat("../outside", fixture.dir, "tree/link"), 0);
    ck_assert_int_eq(symlinkat("nowhere", fixture.dir, "tree/dangling"), 0);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "tree"), 0);
    ck_assert(!fixture_exists("tree"));
    ck_assert(fixture_exists("outside/precious"));
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "tree"), 0);
}
END_TEST

START_TEST(remove_tree_of_a_symlink_removes_the_link)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "outside", 0700), 0);
    fixture_write("outside/precious", "x");
    ck_assert_int_eq(symlinkat("outside", fixture.dir, "link"), 0);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "link"), 0);
    ck_assert(!fixture_exists("link"));
    ck_assert(fixture_exists("outside/precious"));
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "outside/precious"), 0);
    ck_assert(!fixture_exists("outside/precious"));
}
END_TEST

START_TEST(remove_tree_says_when_it_is_too_deep)
{
    auto_fd int at = dir_open(fixture.dir, ".");
    enum { LEVELS = 200 };
    for (int i = 0; i < LEVELS; i++) {
        ck_assert_int_eq(mkdirat(at, "d", 0700), 0);
        int next = dir_open(at, "d");
        ck_assert_int_ge(next, 0);
        fd_close(at);
        at = next;
    }
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "d"), -ELOOP);
    /* By half: bring the deep end up, so that both halves are shallow enough and the fixture can clean up. */
    auto_fd int half = dir_open(fixture.dir, ".");
    for (int i = 0; i < LEVELS / 2; i++) {
        int next = dir_open(half, "d");
        ck_assert_int_ge(next, 0);
        fd_close(half);
        half = next;
    }
    ck_assert_int_eq(renameat(half, "d", fixture.dir, "rest"), 0);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "d"), 0);
    ck_assert_int_eq(dir_remove_tree(fixture.dir, "rest"), 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, make_gives_its_mode_to_what_it_makes);
    tcase_add_test(tc, make_follows_an_existing_symlink);
    tcase_add_test(tc, make_says_which_folder_failed);
    tcase_add_test(tc, open_refuses_a_symlink);
    tcase_add_test(tc, remove_tree_stays_inside);
    tcase_add_test(tc, remove_tree_of_a_symlink_removes_the_link);
    tcase_add_test(tc, remove_tree_says_when_it_is_too_deep);
}

int main(void) { return fixture_main("dir", add_tests); }
