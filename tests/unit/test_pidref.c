#include "lib/base/pidref.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"

/* A child that lives until it is killed. */
static pid_t start_sleeper(void)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0)
        for (;;)
            pause();
    return pid;
}

static void kill_and_reap(pid_t pid)
{
    kill(pid, SIGKILL);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(identity_of_a_child)
{
    pid_t pid = start_sleeper();
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    ck_assert_int_eq(ref.pid, pid);
    ck_assert_int_ge(ref.fd, 0);
    ck_assert_int_eq(fcntl(ref.fd, F_GETFD), FD_CLOEXEC);
    uint64_t ticks = 0, mine = 0;
    ck_assert_int_eq(proc_start_time(pid, &ticks), 0);
    ck_assert_int_eq(proc_start_time(getpid(), &mine), 0);
    ck_assert_uint_eq(ref.start_time, ticks);
    ck_assert_uint_ge(ticks, mine);
    ck_assert_uint_gt(mine, 0);
    ck_assert_int_eq(pidref_exited(&ref), 0);

    auto_pidref struct pidref same = PIDREF_NONE;
    ck_assert_int_eq(pidref_open_identity(pid, ticks, &same), 0);
    struct pidref other = PIDREF_NONE;
    ck_assert_int_eq(pidref_open_identity(pid, ticks + 1, &other), -ESRCH);
    ck_assert_int_eq(other.fd, -1);
    kill_and_reap(pid);
}
END_TEST

START_TEST(a_name_full_of_traps_does_not_confuse)
{
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        uint64_t before = 0, after = 0;
        int r = proc_start_time(getpid(), &before);
        prctl(PR_SET_NAME, ") Z 1 (2 ");
        r = r < 0 ? r : proc_start_time(getpid(), &after);
        _exit(r == 0 && before == after ? 0 : 1);
    }
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    ck_assert_int_eq(wstatus, 0);
}
END_TEST

START_TEST(a_zombie_is_dead)
{
    pid_t pid = start_sleeper();
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    ck_assert_int_eq(pidref_kill(&ref, SIGKILL), 0);
    fixture_await(ref.fd, POLLIN);
    ck_assert_int_eq(pidref_exited(&ref), 1);
    uint64_t ticks;
    ck_assert_int_eq(proc_start_time(pid, &ticks), -ESRCH);
    struct pidref other = PIDREF_NONE;
    ck_assert_int_eq(pidref_open_identity(pid, ref.start_time, &other), -ESRCH);
    /* But it can be held, since its parent must reap it. */
    auto_pidref struct pidref zombie = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(pid, &zombie), 0);
    ck_assert_uint_eq(zombie.start_time, ref.start_time);

    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert_int_eq(pidref_exited(&ref), 1);
    ck_assert_int_eq(pidref_kill(&ref, SIGKILL), -ESRCH);
    ck_assert_int_eq(pidref_open(pid, &other), -ESRCH);
    ck_assert_int_eq(pidref_open_identity(pid, ref.start_time, &other), -ESRCH);
}
END_TEST

START_TEST(nobody)
{
    struct pidref ref = PIDREF_NONE;
    uint64_t ticks = 4711;
    ck_assert_int_eq(pidref_open(0, &ref), -ESRCH);
    ck_assert_int_eq(pidref_open(-1, &ref), -ESRCH);
    ck_assert_int_eq(pidref_open_identity(0, 0, &ref), -ESRCH);
    ck_assert_int_eq(proc_start_time(0, &ticks), -ESRCH);
    ck_assert_int_eq(proc_start_time(-5, &ticks), -ESRCH);
    ck_assert_uint_eq(ticks, 4711);
    ck_assert_int_lt(pidref_exited(&ref), 0);
    ck_assert_int_lt(pidref_kill(&ref, 0), 0);
    int wstatus = 4711;
    ck_assert_int_lt(pidref_exit_status(&ref, &wstatus), 0);
    ck_assert_int_eq(wstatus, 4711);
    pidref_done(&ref);
    pidref_done(&ref);
}
END_TEST

/* A process that is somebody else's child: the test forks a guardian, which is a subreaper and stands in for init; it forks a process
 * that forks the stray and exits. The stray exits with `code` on a byte in `stray_go`; the guardian reaps on one in `reap_go`. */
struct stray {
    pid_t guardian, pid;
    int stray_go, reap_go;
};

static _Noreturn void stray_run(int pid_write, int go, int code)
{
    pid_t self = getpid();
    char byte;
    if (write(pid_write, &self, sizeof(self)) != sizeof(self) || read(go, &byte, 1) != 1)
        _exit(99);
    _exit(code);
}

static _Noreturn void guardian_run(int pid_write, int stray_go, int reap_go, int code)
{
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        _exit(1);
    pid_t middle = fork();
    if (middle == 0) {
        if (fork() == 0)
            stray_run(pid_write, stray_go, code);
        _exit(0);
    }
    if (middle < 0 || waitpid(middle, NULL, 0) != middle)
        _exit(2);
    char byte;
    if (read(reap_go, &byte, 1) != 1)
        _exit(3);
    int wstatus;
    _exit(wait(&wstatus) > 0 ? 0 : 4);
}

static void start_stray(struct stray *s, int code)
{
    int pids[2], stray_go[2], reap_go[2];
    ck_assert(pipe2(pids, O_CLOEXEC) == 0 && pipe2(stray_go, O_CLOEXEC) == 0 && pipe2(reap_go, O_CLOEXEC) == 0);
    s->guardian = fork();
    ck_assert_int_ge(s->guardian, 0);
    if (s->guardian == 0) {
        close(stray_go[1]);
        close(reap_go[1]);
        guardian_run(pids[1], stray_go[0], reap_go[0], code);
    }
    fd_close(pids[1]);
    fd_close(stray_go[0]);
    fd_close(reap_go[0]);
    ck_assert_int_eq(read(pids[0], &s->pid, sizeof(s->pid)), sizeof(s->pid));
    fd_close(pids[0]);
    s->stray_go = stray_go[1];
    s->reap_go = reap_go[1];
}

static void stray_end(struct stray *s)
{
    ck_assert_int_eq(fd_write_all(s->reap_go, "x", 1), 0);
    int wstatus;
    ck_assert_int_eq(waitpid(s->guardian, &wstatus, 0), s->guardian);
    ck_assert_int_eq(wstatus, 0);
    fd_close(s->stray_go);
    fd_close(s->reap_go);
}

/* Whether the kernel keeps the exit codes of reaped processes at all. */
static bool kernel_keeps_exit_codes(void)
{
    pid_t pid = start_sleeper();
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    kill_and_reap(pid);
    int wstatus;
    int r = pidref_exit_status(&ref, &wstatus);
    ck_assert_msg(r == 0 || r == -ENODATA, "%d", r);
    if (r == -ENODATA)
        fputs("kernel before 6.15: exit codes of other processes' children stay unknown\n", stderr);
    return r == 0;
}

START_TEST(exit_status_of_a_stranger)
{
    struct stray s;
    start_stray(&s, 7);
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(s.pid, &ref), 0);
    int wstatus = 4711;
    ck_assert_int_eq(pidref_exit_status(&ref, &wstatus), -EBUSY);
    ck_assert_int_eq(wstatus, 4711);
    ck_assert_int_eq(fd_write_all(s.stray_go, "x", 1), 0);
    fixture_await(ref.fd, POLLIN);
    /* Dead and not reaped: /proc tells a code that isn't 0 to those it trusts; nobody invents one. */
    int r = pidref_exit_status(&ref, &wstatus);
    ck_assert_msg((r == 0 && wstatus == 7 << 8) || (r < 0 && wstatus == 4711), "%d, %x", r, wstatus);
    stray_end(&s);
    if (!kernel_keeps_exit_codes())
        return;
    wstatus = 4711;
    ck_assert_int_eq(pidref_exit_status(&ref, &wstatus), 0);
    ck_assert(WIFEXITED(wstatus));
    ck_assert_int_eq(WEXITSTATUS(wstatus), 7);
}
END_TEST

START_TEST(a_stranger_that_exits_0_is_not_told_before_it_is_reaped)
{
    struct stray s;
    start_stray(&s, 0);
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(s.pid, &ref), 0);
    ck_assert_int_eq(fd_write_all(s.stray_go, "x", 1), 0);
    fixture_await(ref.fd, POLLIN);
    int wstatus = 4711;
    bool kept = kernel_keeps_exit_codes();
    ck_assert_int_eq(pidref_exit_status(&ref, &wstatus), kept ? -EAGAIN : -ENODATA);
    ck_assert_int_eq(wstatus, 4711);
    stray_end(&s);
    if (!kept)
        return;
    fixture_await(ref.fd, POLLHUP);
    ck_assert_int_eq(pidref_exit_status(&ref, &wstatus), 0);
    ck_assert_int_eq(wstatus, 0);
}
END_TEST

START_TEST(signal_of_a_stranger)
{
    struct stray s;
    start_stray(&s, 0);
    auto_pidref struct pidref ref = PIDREF_NONE;
    ck_assert_int_eq(pidref_open(s.pid, &ref), 0);
    ck_assert_int_eq(pidref_kill(&ref, SIGKILL), 0);
    fixture_await(ref.fd, POLLIN);
    stray_end(&s);
    if (!kernel_keeps_exit_codes())
        return;
    int wstatus = 0;
    ck_assert_int_eq(pidref_exit_status(&ref, &wstatus), 0);
    ck_assert(WIFSIGNALED(wstatus));
    ck_assert_int_eq(WTERMSIG(wstatus), SIGKILL);
}
END_TEST

START_TEST(boot_id)
{
    char one[BOOT_ID_LEN + 1], two[BOOT_ID_LEN + 1];
    ck_assert_int_eq(boot_id_read(one), 0);
    ck_assert_int_eq(boot_id_read(two), 0);
    ck_assert_str_eq(one, two);
    ck_assert_uint_eq(strspn(one, "0123456789abcdef-"), BOOT_ID_LEN);
    ck_assert_uint_eq(strlen(one), BOOT_ID_LEN);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, identity_of_a_child);
    tcase_add_test(tc, a_name_full_of_traps_does_not_confuse);
    tcase_add_test(tc, a_zombie_is_dead);
    tcase_add_test(tc, nobody);
    tcase_add_test(tc, exit_status_of_a_stranger);
    tcase_add_test(tc, a_stranger_that_exits_0_is_not_told_before_it_is_reaped);
    tcase_add_test(tc, signal_of_a_stranger);
    tcase_add_test(tc, boot_id);
}

int main(void) { return fixture_main("pidref", add_tests); }
