#include "lib/base/spawn.h"

#include <inttypes.h>
#include <signal.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"
#include "tests/unit/spawn_test.h"

START_TEST(capture_keeps_to_its_limit)
{
    const struct spawn spawn = {
        .path = "/bin/sh",
        .argv = ARGV(W("sh"), W("-c"), W("head -c 300000 /dev/zero | tr '\\0' o; head -c 300000 /dev/zero | tr '\\0' e >&2")),
        .env = ARGV(W("PATH=/usr/bin:/bin")),
        .go_fd = -1,
    };
    struct spawn_output o;
    ck_assert_int_eq(spawn_capture(&spawn, -1, 100000, &o), 0);
    ck_assert_int_eq(o.wstatus, 0);
    ck_assert_uint_eq(strlen(o.out), 100000);
    ck_assert_uint_eq(strspn(o.out, "o"), 100000);
    ck_assert_uint_eq(strspn(o.err, "e"), 100000);
    spawn_output_done(&o);
    ck_assert_ptr_null(o.out);
}
END_TEST

START_TEST(capture_kills_the_group_in_the_end)
{
    int alive[2];
    make_pipe(alive);
    /* The write end is held by the shell and by its child: end of file means both are gone. */
    const struct spawn_fd fds[] = { { alive[1], 3 } };
    const struct spawn spawn = {
        .path = "/bin/sh",
        .argv = ARGV(W("sh"), W("-c"), W("sleep 1000 & wait")),
        .env = ARGV(W("PATH=/usr/bin:/bin")),
        .fds = fds,
        .n_fds = 1,
        .go_fd = -1,
    };
    struct spawn_output o = { .wstatus = 4711 };
    ck_assert_int_eq(spawn_capture(&spawn, 100, 4096, &o), -ETIMEDOUT);
    ck_assert_int_eq(o.wstatus, 4711);
    fd_close(alive[1]);
    fixture_await(alive[0], POLLIN);
    char byte;
    ck_assert_int_eq(read(alive[0], &byte, 1), 0);
    fd_close(alive[0]);
    ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1);
}
END_TEST

START_TEST(capture_times_out_on_endless_output)
{
    const struct spawn spawn = { .path = "/usr/bin/yes", .argv = ARGV(W("yes")), .go_fd = -1 };
    struct spawn_output o;
    ck_assert_int_eq(spawn_capture(&spawn, 100, 4096, &o), -ETIMEDOUT);
}
END_TEST

START_TEST(capture_ends_with_the_child)
{
    /* What is left behind holds both pipes. */
    const struct spawn spawn = {
        .path = "/bin/sh",
        .argv = ARGV(W("sh"), W("-c"), W("sleep 1000 & echo $!")),
        .env = ARGV(W("PATH=/usr/bin:/bin")),
        .go_fd = -1,
    };
    struct spawn_output o;
    ck_assert_int_eq(spawn_capture(&spawn, -1, 4096, &o), 0);
    ck_assert_int_eq(o.wstatus, 0);
    intmax_t pid = strtoimax(o.out, NULL, 10);
    ck_assert_int_gt(pid, 1);
    ck_assert_int_eq(kill((pid_t)pid, SIGKILL), 0);
    spawn_output_done(&o);
}
END_TEST

START_TEST(capture_refuses_named_stdout_and_ignored_sigchld)
{
    const struct spawn_fd fds[] = { { 2, 1 } };
    const struct spawn spawn = { .path = "/bin/true", .argv = ARGV(W("true")), .fds = fds, .n_fds = 1, .go_fd = -1 };
    struct spawn_output o;
    ck_assert_int_eq(spawn_capture(&spawn, -1, 10, &o), -EINVAL);
    signal(SIGCHLD, SIG_IGN);
    const struct spawn plain = { .path = "/bin/true", .argv = ARGV(W("true")), .go_fd = -1 };
    ck_assert_int_eq(spawn_capture(&plain, -1, 10, &o), -ECHILD);
    signals_reset();
    ck_assert_int_eq(spawn_capture(&plain, -1, 10, &o), 0);
    spawn_output_done(&o);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, capture_keeps_to_its_limit);
    tcase_add_test(tc, capture_kills_the_group_in_the_end);
    tcase_add_test(tc, capture_times_out_on_endless_output);
    tcase_add_test(tc, capture_ends_with_the_child);
    tcase_add_test(tc, capture_refuses_named_stdout_and_ignored_sigchld);
}

int main(void) { return fixture_main("spawn_capture", add_tests); }
