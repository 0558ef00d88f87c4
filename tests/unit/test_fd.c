#include "lib/base/fd.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"

static bool is_open(int fd) { return fcntl(fd, F_GETFD) >= 0; }

START_TEST(close_keeps_errno_and_empties)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    int number = fd;
    errno = ENOENT;
    fd = fd_close(fd);
    ck_assert_int_eq(fd, -1);
    ck_assert(!is_open(number));
    errno = ENOENT;
    ck_assert_int_eq(fd_close(number), -1); /* EBADF inside */
    ck_assert_int_eq(errno, ENOENT);
    ck_assert_int_eq(fd_close(-1), -1);
}
END_TEST

START_TEST(auto_closes_and_steal_keeps)
{
    int closed, kept;
    {
        auto_fd int a = open("/dev/null", O_RDONLY | O_CLOEXEC);
        auto_fd int b = open("/dev/null", O_RDONLY | O_CLOEXEC);
        closed = a;
        kept = steal_fd(&b);
        ck_assert_int_eq(b, -1);
    }
    ck_assert(!is_open(closed));
    ck_assert(is_open(kept));
    fd_close(kept);
}
END_TEST

START_TEST(flags)
{
    auto_fd int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(fd_set_cloexec(fd, false), 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD), 0);
    ck_assert_int_eq(fd_set_cloexec(fd, true), 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    ck_assert_int_eq(fd_set_nonblock(fd, true), 0);
    ck_assert(fcntl(fd, F_GETFL) & O_NONBLOCK);
    ck_assert_int_eq(fd_set_nonblock(fd, false), 0);
    ck_assert(!(fcntl(fd, F_GETFL) & O_NONBLOCK));
    ck_assert_int_eq(fd_set_nonblock(-1, true), -EBADF);
    ck_assert_int_eq(fd_set_cloexec(-1, true), -EBADF);
}
END_TEST

START_TEST(read_all_honours_its_limit)
{
    fixture_write("ten", "0123456789");
    auto_fd int fd = openat(fixture.dir, "ten", O_RDONLY | O_CLOEXEC);
    char *data = NULL;
    size_t len = 0;
    ck_assert_int_eq(fd_read_all(fd, 9, &data, &len), -EFBIG);
    ck_assert_ptr_null(data);
    lseek(fd, 0, SEEK_SET);
    ck_assert_int_eq(fd_read_all(fd, 10, &data, &len), 0);
    ck_assert_uint_eq(len, 10);
    ck_assert_str_eq(data, "0123456789");
    free(data);
    ck_assert_int_eq(fd_read_all(fd, 0, &data, &len), 0);
    ck_assert_uint_eq(len, 0);
    ck_assert_str_eq(data, "");
    free(data);
    ck_assert_int_eq(fd_read_all(-1, 10, &data, &len), -EBADF);
}
END_TEST

START_TEST(write_all_and_read_all_through_a_pipe)
{
    int fds[2];
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    enum { BYTES = 300000 }; /* more than a pipe holds: writes are short */
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        char *data = malloc(BYTES);
        memset(data, 'x', BYTES);
        _exit(fd_write_all(fds[1], data, BYTES) == 0 ? 0 : 1);
    }
    fd_close(fds[1]);
    auto_free char *data = NULL;
    size_t len = 0;
    ck_assert_int_eq(fd_read_all(fds[0], BYTES, &data, &len), 0);
    ck_assert_uint_eq(len, BYTES);
    ck_assert_int_eq(data[BYTES - 1], 'x');
    fd_close(fds[0]);
}
END_TEST

START_TEST(write_all_tells_failure)
{
    signal(SIGPIPE, SIG_IGN);
    int fds[2];
    ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
    fd_close(fds[0]);
    ck_assert_int_eq(fd_write_all(fds[1], "x", 1), -EPIPE);
    ck_assert_int_eq(fd_write_all(fds[1], "", 0), 0);
    fd_close(fds[1]);
    auto_fd int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    ck_assert_int_eq(fd_write_all(full, "x", 1), -ENOSPC);
}
END_TEST

START_TEST(memfd_from_data)
{
    auto_fd int fd = fd_from_data("plan", "hello", 5);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
    auto_free char *data = NULL;
    size_t len = 0;
    ck_assert_int_eq(fd_read_all(fd, 100, &data, &len), 0);
    ck_assert_str_eq(data, "hello");
    ck_assert_int_lt(ftruncate(fd, 1), 0);
    ck_assert_int_lt(ftruncate(fd, 10), 0);
    auto_fd int empty = fd_from_data("empty", NULL, 0);
    ck_assert_int_ge(empty, 0);
}
END_TEST

START_TEST(stdio_is_made_whole)
{
    /* In a child, since check needs its own stdio. */
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        close(0);
        close(2);
        if (fd_ensure_stdio() != 0)
            _exit(1);
        struct stat null, st;
        if (stat("/dev/null", &null) < 0 || fstat(0, &st) < 0 || st.st_rdev != null.st_rdev || fcntl(0, F_GETFD) != 0)
            _exit(2);
        if (fstat(2, &st) < 0 || st.st_rdev != null.st_rdev || fcntl(2, F_GETFD) != 0)
            _exit(3);
        _exit(0);
    }
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    ck_assert_int_eq(wstatus, 0);
}
END_TEST

START_TEST(close_others_keeps_what_is_named)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        for (int fd = 3; fd < 60; fd++)
            if (dup2(1, fd) < 0)
                _exit(1);
        const int keep[] = { 40, 7, -1, 7, 41, 1 };
        if (fd_close_others(keep, ARRAY_LEN(keep)) != 0)
            _exit(2);
        for (int fd = 0; fd < 60; fd++)
            if (is_open(fd) != (fd < 3 || fd == 7 || fd == 40 || fd == 41))
                _exit(fd + 100);
        if (fd_close_others(NULL, 0) != 0 || is_open(7) || is_open(40) || !is_open(1))
            _exit(3);
        _exit(0);
    }
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    ck_assert_int_eq(wstatus, 0);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, close_keeps_errno_and_empties);
    tcase_add_test(tc, auto_closes_and_steal_keeps);
    tcase_add_test(tc, flags);
    tcase_add_test(tc, read_all_honours_its_limit);
    tcase_add_test(tc, write_all_and_read_all_through_a_pipe);
    tcase_add_test(tc, write_all_tells_failure);
    tcase_add_test(tc, memfd_from_data);
    tcase_add_test(tc, stdio_is_made_whole);
    tcase_add_test(tc, close_others_keeps_what_is_named);
}

int main(void) { return fixture_main("fd", add_tests); }
