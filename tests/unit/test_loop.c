#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/loop/loop.h"
#include "lib/loop/pidwatch.h"
#include "tests/unit/loop_test.h"

static struct loop *loop;
static int fds_before;

static void setup(void)
{
    fds_before = count_fds();
    ck_assert_int_eq(loop_new(&loop), 0);
}

static void teardown(void)
{
    loop_free(loop);
    ck_assert_int_eq(count_fds(), fds_before);
}

static char order[32];
static size_t order_len;

static void note(void *arg) { order[order_len++] = *(const char *)arg; }

static void note_and_stop(void *arg)
{
    note(arg);
    loop_stop(loop, 42);
}

START_TEST(deferred_runs_once_in_order)
{
    struct deferred a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };

    loop_defer(loop, &a, note, (void *)(uintptr_t) "a");
    loop_defer(loop, &b, note, (void *)(uintptr_t) "b");
    loop_defer(loop, &c, note, (void *)(uintptr_t) "c");
    loop_defer(loop, &d, note_and_stop, (void *)(uintptr_t) "d");
    loop_defer(loop, &a, note, (void *)(uintptr_t) "x"); /* queued already: changes nothing */
    loop_undefer(&b);
    loop_undefer(&b);
    ck_assert_int_eq(loop_run(loop), 42);
    ck_assert_str_eq(order, "acd");
}
END_TEST

static struct deferred again;
static int again_count;

static void defer_again(void *arg)
{
    again_count++;
    loop_defer(loop, &again, defer_again, NULL);
}

static void stop_timer(struct ev_loop *ev, ev_timer *w, int revents) { loop_stop(loop, 7); }

START_TEST(deferring_itself_starves_nobody)
{
    ev_timer timer;

    ev_timer_init(&timer, stop_timer, 0.01, 0.);
    ev_timer_start(loop_ev(loop), &timer);
    loop_defer(loop, &again, defer_again, NULL);
    ck_assert_int_eq(loop_run(loop), 7);
    ck_assert_int_gt(again_count, 1);
    loop_undefer(&again);
}
END_TEST

static struct deferred last_one;

static void remove_last(void *arg)
{
    note(arg);
    loop_undefer(&last_one);
}

START_TEST(undefer_of_the_last_inside_a_run)
{
    struct deferred a = { 0 }, c = { 0 };

    loop_defer(loop, &a, remove_last, (void *)(uintptr_t) "a");
    loop_defer(loop, &last_one, note, (void *)(uintptr_t) "b");
    run_settled(loop);
    loop_defer(loop, &c, note, (void *)(uintptr_t) "c");
    run_settled(loop);
    ck_assert_str_eq(order, "ac");
}
END_TEST

START_TEST(free_runs_what_is_deferred)
{
    struct deferred a = { 0 };
    struct loop *other = NULL;

    ck_assert_int_eq(loop_new(&other), 0);
    loop_defer(other, &a, note, (void *)(uintptr_t) "a");
    loop_free(other);
    ck_assert_str_eq(order, "a");
}
END_TEST

static int prepared;

static void count_prepare(struct ev_loop *ev, ev_prepare *w, int revents) { prepared++; }

/* After the deferred list has run dry the loop must sleep, not poll. */
START_TEST(no_spinning_after_deferred)
{
    struct deferred a = { 0 }, b = { 0 };
    ev_timer timer;
    ev_prepare counter;

    loop_defer(loop, &a, note, (void *)(uintptr_t) "a");
    loop_defer(loop, &b, note, (void *)(uintptr_t) "b");
    loop_undefer(&b);
    ev_timer_init(&timer, stop_timer, 0.05, 0.);
    ev_timer_start(loop_ev(loop), &timer);
    ev_prepare_init(&counter, count_prepare);
    ev_prepare_start(loop_ev(loop), &counter);
    loop_run(loop);
    ev_prepare_stop(loop_ev(loop), &counter);
    ck_assert_int_lt(prepared, 8);
}
END_TEST

/* The wait a process is in, from /proc/PID/syscall (proc_pid_syscall(5)): the fourth argument of epoll_wait(2) in ms. */
static bool read_wait(pid_t pid, uint64_t *ret_ms)
{
    char path[64], line[256] = "", *field = line;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/syscall", (int)pid);
    file = fopen(path, "re");
    ck_assert_ptr_nonnull(file);
    if (!fgets(line, sizeof(line), file))
        line[0] = '\0';
    ck_assert_int_eq(fclose(file), 0);
    if (line[0] < '0' || line[0] > '9') /* "running" */
        return false;
    for (int i = 0; i < 4 && field; i++) {
        field = strchr(field, ' ');
        field += field ? 1 : 0;
    }
    ck_assert_ptr_nonnull(field);
    *ret_ms = strtoumax(field, NULL, 16);
    return true;
}

/* libev's default is to wake up once a minute. */
START_TEST(idle_loop_sleeps_for_good)
{
    uint64_t wait_ms = 0, deadline = clock_mono_us() + UINT64_C(20000000);
    pid_t pid = fork();

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        struct loop *own = NULL;

        _exit(loop_new(&own) < 0 ? 1 : loop_run(own));
    }
    while ((!read_wait(pid, &wait_ms) || wait_ms == 0) && clock_mono_us() < deadline)
        sched_yield();
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_uint_gt(wait_ms, UINT64_C(24) * 3600 * 1000);
}
END_TEST

static int exits;

static void on_exit_seen(struct pidwatch *w)
{
    exits++;
    ck_assert_ptr_eq(w->arg, &exits);
}

START_TEST(pidwatch_tells_once)
{
    struct pidref ref = PIDREF_NONE;
    struct pidwatch w = { 0 };
    pid_t pid = fork();
    siginfo_t info;

    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        pause();
        _exit(0);
    }
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    pidwatch_start(&w, loop, &ref, on_exit_seen, &exits);
    run_settled(loop);
    ck_assert_int_eq(exits, 0);
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    run_until(loop, exits > 0);
    run_settled(loop);
    ck_assert_int_eq(exits, 1);
    ck_assert_int_eq(waitid(P_PIDFD, (id_t)ref.fd, &info, WEXITED), 0);
    pidwatch_stop(&w);
    pidref_done(&ref);
}
END_TEST

START_TEST(pidwatch_stopped_is_silent)
{
    struct pidref ref = PIDREF_NONE;
    struct pidwatch w = { 0 };
    pid_t pid;

    pidwatch_stop(&w);
    pid = fork();
    if (pid == 0)
        _exit(0);
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    pidwatch_start(&w, loop, &ref, on_exit_seen, &exits);
    pidwatch_stop(&w);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    run_settled(loop);
    ck_assert_int_eq(exits, 0);
    pidref_done(&ref);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("loop");
    TCase *tc = tcase_create("loop");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, deferred_runs_once_in_order);
    tcase_add_test(tc, deferring_itself_starves_nobody);
    tcase_add_test(tc, undefer_of_the_last_inside_a_run);
    tcase_add_test(tc, free_runs_what_is_deferred);
    tcase_add_test(tc, no_spinning_after_deferred);
    tcase_add_test(tc, idle_loop_sleeps_for_good);
    tcase_add_test(tc, pidwatch_tells_once);
    tcase_add_test(tc, pidwatch_stopped_is_silent);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
