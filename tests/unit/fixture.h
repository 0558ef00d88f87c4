/* What the unit tests share: a temporary folder per test, and proof that a test leaves no file descriptor behind.
 *
 *   static void add_tests(TCase *tc) { tcase_add_test(tc, …); }
 *   int main(void) { return fixture_main("parse", add_tests); }
 *
 * libcheck runs each test in a process of its own, so what a test does to its fds, signals or environment ends with it. */
#pragma once

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/util.h"

/* How long a test waits for what must happen: generous, since reaching it is a failure. */
enum { FIXTURE_DEADLINE_MS = 30 * 1000 };

static struct {
    size_t fds;
    char path[64];
    int dir;
} fixture = { .dir = -1 };

static inline size_t fixture_count_fds(void)
{
    DIR *dir = opendir("/proc/self/fd");
    ck_assert_ptr_nonnull(dir);
    size_t n = 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static inline void fixture_setup(void)
{
    fixture.fds = fixture_count_fds();
    snprintf(fixture.path, sizeof(fixture.path), "/tmp/holdfast-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(fixture.path));
    fixture.dir = dir_open(AT_FDCWD, fixture.path);
    ck_assert_int_ge(fixture.dir, 0);
}

static inline void fixture_teardown(void)
{
    fixture.dir = fd_close(fixture.dir);
    ck_assert_int_eq(dir_remove_tree(AT_FDCWD, fixture.path), 0);
    ck_assert_msg(fixture_count_fds() == fixture.fds, "%zu fds before the test, %zu after it", fixture.fds, fixture_count_fds());
}

/* Puts a file of this text into the temporary folder. */
static inline void fixture_write(const char *name, const char *text)
{
    int fd = openat(fixture.dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fd_write_all(fd, text, strlen(text)), 0);
    fd_close(fd);
}

/* The file's content must be just this text. */
static inline void fixture_assert_content(const char *name, const char *text)
{
    auto_free char *data = NULL;
    size_t len = 0;
    ck_assert_int_eq(file_read(fixture.dir, name, 1 << 20, &data, &len), 0);
    ck_assert_uint_eq(len, strlen(text));
    ck_assert_str_eq(data, text);
}

static inline bool fixture_exists(const char *name) { return faccessat(fixture.dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0; }

/* Waits until the fd shows one of these poll events. */
static inline void fixture_await(int fd, short events)
{
    struct pollfd pollfd = { .fd = fd, .events = events };
    int n;
    do
        n = poll(&pollfd, 1, FIXTURE_DEADLINE_MS);
    while (n < 0 && errno == EINTR);
    ck_assert_msg(n == 1, "nothing happened on fd %d within the deadline", fd);
}

static inline int fixture_main(const char *name, void (*add_tests)(TCase *tc))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, fixture_setup, fixture_teardown);
    add_tests(tc);
    suite_add_tcase(suite, tc);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
