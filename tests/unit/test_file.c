#include "lib/base/file.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"

static mode_t mode_of(const char *name)
{
    struct stat st;
    ck_assert_int_eq(fstatat(fixture.dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
    return st.st_mode & 07777;
}

static size_t count_entries(void)
{
    DIR *dir = opendir(fixture.path);
    ck_assert_ptr_nonnull(dir);
    size_t n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

START_TEST(write_replaces_whole_with_exact_mode)
{
    umask(077);
    ck_assert_int_eq(file_write(fixture.dir, "r", "one", 3, 0644, FILE_DURABLE), 0);
    fixture_assert_content("r", "one");
    ck_assert_uint_eq(mode_of("r"), 0644);
    umask(0);
    ck_assert_int_eq(file_write(fixture.dir, "r", "second", 6, 0600, FILE_ATOMIC), 0);
    fixture_assert_content("r", "second");
    ck_assert_uint_eq(mode_of("r"), 0600);
    ck_assert_int_eq(file_write(fixture.dir, "r", NULL, 0, 0600, FILE_ATOMIC), 0);
    fixture_assert_content("r", "");
    ck_assert_uint_eq(count_entries(), 1);
}
END_TEST

START_TEST(write_by_path)
{
    auto_free char *path = NULL;
    ck_assert_int_eq(str_format(&path, "%s/by-path", fixture.path), 0);
    ck_assert_int_eq(file_write(AT_FDCWD, path, "x", 1, 0600, FILE_DURABLE), 0);
    fixture_assert_content("by-path", "x");
    ck_assert_int_eq(file_write(fixture.dir, "missing/r", "x", 1, 0600, FILE_ATOMIC), -ENOENT);
    ck_assert_int_eq(file_write(fixture.dir, "folder/", "x", 1, 0600, FILE_ATOMIC), -ENOENT);
}
END_TEST

START_TEST(write_does_not_follow_a_symlink)
{
    fixture_write("target", "precious");
    ck_assert_int_eq(symlinkat("target", fixture.dir, "r"), 0);
    ck_assert_int_eq(file_write(fixture.dir, "r", "x", 1, 0600, FILE_ATOMIC), 0);
    fixture_assert_content("target", "precious");
    fixture_assert_content("r", "x");
    ck_assert_int_eq(symlinkat("target", fixture.dir, ".s.tmp"), 0);
    ck_assert_int_eq(file_write(fixture.dir, "s", "x", 1, 0600, FILE_ATOMIC), -ELOOP);
    fixture_assert_content("target", "precious");
}
END_TEST

START_TEST(failed_write_leaves_the_old_and_no_temporary)
{
    ck_assert_int_eq(mkdirat(fixture.dir, "r", 0700), 0); /* rename(2) of a file over a folder fails */
    ck_assert_int_eq(file_write(fixture.dir, "r", "x", 1, 0600, FILE_DURABLE), -EISDIR);
    ck_assert_uint_eq(count_entries(), 1);
    struct stat st;
    ck_assert_int_eq(fstatat(fixture.dir, "r", &st, 0), 0);
    ck_assert(S_ISDIR(st.st_mode));
}
END_TEST

START_TEST(write_takes_over_what_a_crash_left)
{
    fixture_write(".r.tmp", "half of a much longer rec");
    ck_assert_int_eq(file_write(fixture.dir, "r", "new", 3, 0600, FILE_ATOMIC), 0);
    fixture_assert_content("r", "new");
    ck_assert_uint_eq(count_entries(), 1);
}
END_TEST

START_TEST(write_refuses_to_mix_with_another_writer)
{
    fixture_write("r", "old");
    auto_fd int other = lock_take(fixture.dir, ".r.tmp");
    ck_assert_int_ge(other, 0);
    ck_assert_int_eq(file_write(fixture.dir, "r", "new", 3, 0600, FILE_ATOMIC), -EWOULDBLOCK);
    fixture_assert_content("r", "old");
    other = fd_close(other);
    ck_assert_int_eq(file_write(fixture.dir, "r", "new", 3, 0600, FILE_ATOMIC), 0);
    fixture_assert_content("r", "new");
}
END_TEST

START_TEST(read_refuses_what_is_no_record)
{
    char *data = NULL;
    size_t len = 0;
    fixture_write("big", "0123456789");
    ck_assert_int_eq(symlinkat("big", fixture.dir, "link"), 0);
    ck_assert_int_eq(mkfifoat(fixture.dir, "fifo", 0600), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "folder", 0700), 0);
    ck_assert_int_eq(file_read(fixture.dir, "none", 100, &data, &len), -ENOENT);
    ck_assert_int_eq(file_read(fixture.dir, "big", 9, &data, &len), -EFBIG);
    ck_assert_int_eq(file_read(fixture.dir, "link", 100, &data, &len), -ELOOP);
    ck_assert_int_eq(file_read(fixture.dir, "fifo", 100, &data, &len), -EINVAL);
    ck_assert_int_eq(file_read(fixture.dir, "folder", 100, &data, &len), -EISDIR);
    ck_assert_ptr_null(data);
    ck_assert_int_eq(file_read(fixture.dir, "big", 10, &data, &len), 0);
    ck_assert_uint_eq(len, 10);
    free(data);
}
END_TEST

START_TEST(set_aside_takes_the_first_free_number)
{
    char *name = NULL;
    for (int i = 1; i <= 3; i++) {
        fixture_write("r", "bad");
        ck_assert_int_eq(file_set_aside(fixture.dir, "r", &name), 0);
        char expected[32];
        snprintf(expected, sizeof(expected), "r.corrupt-%d", i);
        ck_assert_str_eq(name, expected);
        fixture_assert_content(expected, "bad");
        ck_assert(!fixture_exists("r"));
        free(name);
        name = NULL;
    }
    ck_assert_int_eq(file_set_aside(fixture.dir, "r", &name), -ENOENT);
    ck_assert_ptr_null(name);
    fixture_write("r", "bad");
    ck_assert_int_eq(file_set_aside(fixture.dir, "r", NULL), 0);
    ck_assert(fixture_exists("r.corrupt-4"));
}
END_TEST

START_TEST(lock_is_exclusive_and_goes_with_its_last_fd)
{
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 0); /* missing is free, and asking doesn't make it */
    ck_assert(!fixture_exists("l"));
    int fd = lock_take(fixture.dir, "l");
    ck_assert_int_ge(fd, 0);
    ck_assert_uint_eq(mode_of("l"), 0600);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 1);
    ck_assert_int_eq(lock_take(fixture.dir, "l"), -EWOULDBLOCK);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    fd_close(fd);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 1);
    fd_close(copy);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 0);
    fd = lock_take(fixture.dir, "l");
    ck_assert_int_ge(fd, 0);
    fd_close(fd);
}
END_TEST

START_TEST(lock_lives_in_a_child)
{
    int fd = lock_take(fixture.dir, "l");
    ck_assert_int_ge(fd, 0);
    int fds[2];
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        char byte;
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) == 0 ? 0 : 1);
    }
    fd_close(fd);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 1);
    fd_close(fds[0]);
    fd_close(fds[1]);
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    ck_assert_int_eq(wstatus, 0);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), 0);
}
END_TEST

START_TEST(lock_follows_no_symlink)
{
    ck_assert_int_eq(symlinkat("elsewhere", fixture.dir, "l"), 0);
    ck_assert_int_eq(lock_take(fixture.dir, "l"), -ELOOP);
    ck_assert_int_eq(lock_is_held(fixture.dir, "l"), -ELOOP);
    ck_assert(!fixture_exists("elsewhere"));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, write_replaces_whole_with_exact_mode);
    tcase_add_test(tc, write_by_path);
    tcase_add_test(tc, write_does_not_follow_a_symlink);
    tcase_add_test(tc, failed_write_leaves_the_old_and_no_temporary);
    tcase_add_test(tc, write_takes_over_what_a_crash_left);
    tcase_add_test(tc, write_refuses_to_mix_with_another_writer);
    tcase_add_test(tc, read_refuses_what_is_no_record);
    tcase_add_test(tc, set_aside_takes_the_first_free_number);
    tcase_add_test(tc, lock_is_exclusive_and_goes_with_its_last_fd);
    tcase_add_test(tc, lock_lives_in_a_child);
    tcase_add_test(tc, lock_follows_no_symlink);
}

int main(void) { return fixture_main("file", add_tests); }
