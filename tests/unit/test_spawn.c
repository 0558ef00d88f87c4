#include "lib/base/spawn.h"

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"
#include "tests/unit/spawn_test.h"

static int wait_for(pid_t pid)
{
    int wstatus;
    ck_assert_int_eq(waitpid(pid, &wstatus, 0), pid);
    return wstatus;
}

/* The value of a line of /proc/PID/status, in `buf`. */
static const char *proc_status(pid_t pid, const char *key, char buf[128])
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    auto_free char *text = NULL;
    ck_assert_int_eq(file_read(AT_FDCWD, path, 1 << 16, &text, NULL), 0);
    auto_free char *needle = NULL;
    ck_assert_int_eq(str_format(&needle, "\n%s:\t", key), 0);
    const char *at = strstr(text, needle);
    ck_assert_ptr_nonnull(at);
    at += strlen(needle);
    snprintf(buf, 128, "%.*s", (int)strcspn(at, "\n"), at);
    return buf;
}

/* Everything a careless starter could hand down: fds without close-on-exec, ignored and blocked signals, umask, an environment. */
enum { MESS_FIRST = 30, MESS_END = 300 };
static bool mess[MESS_END];

static void make_a_mess(void)
{
    for (int fd = MESS_FIRST; fd < MESS_END; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            continue; /* whoever started the test was careless himself */
        mess[fd] = true;
        ck_assert_int_eq(dup2(STDERR_FILENO, fd), fd);
    }
    for (int sig = 1; sig < 32; sig++)
        if (sig != SIGALRM)
            signal(sig, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    umask(0);
    setenv("LEAK", "1", 1);
}

static void close_the_mess(void)
{
    for (int fd = MESS_FIRST; fd < MESS_END; fd++)
        if (mess[fd])
            fd_close(fd);
}

START_TEST(a_child_is_clean)
{
    int in[2], out[2];
    make_pipe(in);
    make_pipe(out);
    make_a_mess();
    const struct spawn_fd fds[] = { { in[0], 0 }, { out[1], 1 }, { in[0], 9 } };
    const struct spawn spawn = { .path = "/bin/cat", .argv = ARGV(W("cat")), .fds = fds, .n_fds = 3, .go_fd = -1, .new_group = true };
    pid_t pid;
    ck_assert_int_eq(spawn_child(&spawn, &pid), 0);
    close_the_mess();
    /* When cat answers, it is cat. */
    char byte = 0;
    ck_assert_int_eq(fd_write_all(in[1], "x", 1), 0);
    ck_assert_int_eq(read(out[0], &byte, 1), 1);
    ck_assert_int_eq(byte, 'x');

    char path[64], buf[128];
    for (int fd = 0; fd < 400; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
        bool open = access(path, F_OK) == 0 || readlink(path, buf, sizeof(buf)) >= 0;
        ck_assert_msg(open == (fd < 3 || fd == 9), "fd %d", fd);
    }
    snprintf(path, sizeof(path), "/proc/%d/fd/2", (int)pid);
    ssize_t n = readlink(path, buf, sizeof(buf) - 1);
    ck_assert_int_gt(n, 0);
    buf[n] = '\0';
    ck_assert_str_eq(buf, "/dev/null");
    snprintf(path, sizeof(path), "/proc/%d/cwd", (int)pid);
    n = readlink(path, buf, sizeof(buf) - 1);
    ck_assert_int_eq(n, 1);
    ck_assert_int_eq(buf[0], '/');
    ck_assert_str_eq(proc_status(pid, "SigIgn", buf), "0000000000000000");
    ck_assert_str_eq(proc_status(pid, "SigBlk", buf), "0000000000000000");
    ck_assert_str_eq(proc_status(pid, "Umask", buf), "0022");
    ck_assert_int_eq(getpgid(pid), pid);
    snprintf(path, sizeof(path), "/proc/%d/environ", (int)pid);
    auto_free char *env = NULL;
    size_t len = 1;
    ck_assert_int_eq(file_read(AT_FDCWD, path, 1 << 16, &env, &len), 0);
    ck_assert_uint_eq(len, 0);

    for (int i = 0; i < 2; i++) {
        fd_close(in[i]);
        fd_close(out[i]);
    }
    ck_assert_int_eq(wait_for(pid), 0);
    /* And what we had is still ours. */
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    ck_assert(sigismember(&mask, SIGTERM));
    ck_assert(signal(SIGTERM, SIG_DFL) == SIG_IGN);
}
END_TEST

START_TEST(environment_and_folder_are_the_ones_given)
{
    char *const env[] = { W("A=1"), W("B=two words"), NULL };
    const struct spawn spawn = {
        .path = "/bin/sh",
        .argv = ARGV(W("sh"), W("-c"), W("pwd; echo \"$A,$B,$PATH_IS\"; exit 3")),
        .env = env,
        .cwd = fixture.path,
        .go_fd = -1,
    };
    struct spawn_output o;
    ck_assert_int_eq(spawn_capture(&spawn, -1, 4096, &o), 0);
    auto_free char *expected = NULL;
    ck_assert_int_eq(str_format(&expected, "%s\n1,two words,\n", fixture.path), 0);
    ck_assert_str_eq(o.out, expected);
    ck_assert_str_eq(o.err, "");
    ck_assert(WIFEXITED(o.wstatus));
    ck_assert_int_eq(WEXITSTATUS(o.wstatus), 3);
    spawn_output_done(&o);
}
END_TEST

struct places {
    int one, other, third;
};

/* Runs in the child, where the places have been changed. */
static int write_to_places(void *arg)
{
    const struct places *p = arg;
    bool done = write(p->one, "one", 3) == 3 && write(p->other, "other", 5) == 5 && write(p->third, "third", 5) == 5;
    return done ? 0 : -EIO;
}

START_TEST(fds_may_change_places)
{
    int a[2], b[2], go[2];
    make_pipe(a);
    make_pipe(b);
    make_pipe(go);
    /* Sources sit on each other's targets, and the go pipe on a third target. */
    struct places places = { a[1], b[1], go[0] };
    const struct spawn_fd fds[] = { { a[1], b[1] }, { b[1], a[1] }, { a[1], go[0] }, { b[1], 0 } };
    const struct spawn spawn = {
        .path = "/bin/true",
        .argv = ARGV(W("true")),
        .fds = fds,
        .n_fds = 4,
        .go_fd = go[0],
        .prepare = write_to_places,
        .prepare_arg = &places,
    };
    pid_t pid;
    ck_assert_int_eq(spawn_child(&spawn, &pid), 0);
    ck_assert_int_eq(fd_write_all(go[1], "G", 1), 0);
    ck_assert_int_eq(wait_for(pid), 0);
    fd_close(a[1]);
    fd_close(b[1]);
    auto_free char *from_a = NULL, *from_b = NULL;
    ck_assert_int_eq(fd_read_all(a[0], 100, &from_a, NULL), 0);
    ck_assert_int_eq(fd_read_all(b[0], 100, &from_b, NULL), 0);
    ck_assert_str_eq(from_a, "otherthird");
    ck_assert_str_eq(from_b, "one");
    fd_close(a[0]);
    fd_close(b[0]);
    fd_close(go[0]);
    fd_close(go[1]);
}
END_TEST

START_TEST(no_go_no_exec)
{
    int go[2];
    make_pipe(go);
    auto_free char *path = NULL;
    ck_assert_int_eq(str_format(&path, "%s/proof", fixture.path), 0);
    const struct spawn spawn = { .path = "/usr/bin/touch", .argv = ARGV(W("touch"), path), .go_fd = go[0] };
    pid_t pid;
    ck_assert_int_eq(spawn_child(&spawn, &pid), 0);
    fd_close(go[0]);
    fd_close(go[1]); /* the child has no copy of the write end, so this is the end of file */
    int wstatus = wait_for(pid);
    ck_assert(WIFEXITED(wstatus));
    ck_assert_int_eq(WEXITSTATUS(wstatus), 125);
    ck_assert(!fixture_exists("proof"));

    make_pipe(go);
    const struct spawn again = { .path = spawn.path, .argv = spawn.argv, .go_fd = go[0] };
    ck_assert_int_eq(spawn_child(&again, &pid), 0);
    ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0);
    ck_assert_int_eq(fd_write_all(go[1], "G", 1), 0);
    ck_assert_int_eq(wait_for(pid), 0);
    ck_assert(fixture_exists("proof"));
    fd_close(go[0]);
    fd_close(go[1]);
}
END_TEST

START_TEST(a_child_that_waits_can_be_killed)
{
    make_a_mess(); /* blocks SIGTERM in us */
    int go[2];
    make_pipe(go);
    const struct spawn spawn = { .path = "/bin/true", .argv = ARGV(W("true")), .go_fd = go[0] };
    pid_t pid;
    ck_assert_int_eq(spawn_child(&spawn, &pid), 0);
    kill(pid, SIGTERM);
    ck_assert_int_eq(wait_for(pid), SIGTERM);
    fd_close(go[0]);
    fd_close(go[1]);
    close_the_mess();
}
END_TEST

static int refuse(void *arg) { return *(int *)arg; }

START_TEST(failures_are_told_on_stderr)
{
    struct spawn_output o;
    const struct spawn missing = { .path = "/nonexistent/qemu", .argv = ARGV(W("qemu")), .go_fd = -1 };
    ck_assert_int_eq(spawn_capture(&missing, -1, 4096, &o), 0);
    ck_assert_int_eq(WEXITSTATUS(o.wstatus), 127);
    ck_assert_str_eq(o.err, "/nonexistent/qemu: cannot be executed: No such file or directory\n");
    spawn_output_done(&o);

    const struct spawn no_folder = { .path = "/bin/true", .argv = ARGV(W("true")), .cwd = "/nonexistent", .go_fd = -1 };
    ck_assert_int_eq(spawn_capture(&no_folder, -1, 4096, &o), 0);
    ck_assert_int_eq(WEXITSTATUS(o.wstatus), 126);
    ck_assert_str_eq(o.err, "/bin/true: cannot enter its working folder: No such file or directory\n");
    spawn_output_done(&o);

    int result = -EPERM;
    const struct spawn refused = { .path = "/bin/true", .argv = ARGV(W("true")), .go_fd = -1, .prepare = refuse, .prepare_arg = &result };
    ck_assert_int_eq(spawn_capture(&refused, -1, 4096, &o), 0);
    ck_assert_int_eq(WEXITSTATUS(o.wstatus), 126);
    ck_assert_str_eq(o.err, "/bin/true: cannot be prepared: Operation not permitted\n");
    spawn_output_done(&o);
    result = 0;
    ck_assert_int_eq(spawn_capture(&refused, -1, 4096, &o), 0);
    ck_assert_int_eq(o.wstatus, 0);
    spawn_output_done(&o);
}
END_TEST

START_TEST(nonsense_is_refused)
{
    pid_t pid = 4711;
    const struct spawn_fd twice[] = { { 1, 4 }, { 2, 4 } }, negative[] = { { 1, -1 } }, closed[] = { { 999, 4 } };
    char *const argv[] = { W("true"), NULL };
    const struct spawn cases[] = {
        { .argv = argv, .go_fd = -1 },
        { .path = "/bin/true", .go_fd = -1 },
        { .path = "/bin/true", .argv = argv + 1, .go_fd = -1 },
        { .path = "/bin/true", .argv = argv, .fds = twice, .n_fds = 2, .go_fd = -1 },
        { .path = "/bin/true", .argv = argv, .fds = negative, .n_fds = 1, .go_fd = -1 },
        { .path = "/bin/true", .argv = argv, .fds = closed, .n_fds = SPAWN_FDS_MAX + 1, .go_fd = -1 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        ck_assert_int_eq(spawn_child(&cases[i], &pid), -EINVAL);
        ck_assert_int_eq(spawn_detached(&cases[i]), -EINVAL);
        struct spawn_output o;
        ck_assert_int_eq(spawn_capture(&cases[i], -1, 10, &o), -EINVAL);
    }
    const struct spawn bad_fd = { .path = "/bin/true", .argv = argv, .fds = closed, .n_fds = 1, .go_fd = -1 };
    ck_assert_int_eq(spawn_child(&bad_fd, &pid), -EBADF);
    ck_assert_int_eq(pid, 4711);
}
END_TEST

struct kin {
    pid_t pid, parent, session, group;
};

/* Runs in the grandchild just before exec: whose child is it by then? */
static int tell_kin(void *arg)
{
    const struct kin kin = { getpid(), getppid(), getsid(0), getpgid(0) };
    return write(*(int *)arg, &kin, sizeof(kin)) == sizeof(kin) ? 0 : -EIO;
}

START_TEST(detached_is_nobodys_child_here)
{
    int out[2];
    make_pipe(out);
    for (int i = 0; i < 20; i++) {
        int target = 3;
        const struct spawn_fd fds[] = { { out[1], target } };
        const struct spawn spawn = {
            .path = "/bin/true",
            .argv = ARGV(W("true")),
            .fds = fds,
            .n_fds = 1,
            .go_fd = -1,
            .prepare = tell_kin,
            .prepare_arg = &target,
        };
        ck_assert_int_eq(spawn_detached(&spawn), 0);
        struct kin kin;
        ck_assert_int_eq(read(out[0], &kin, sizeof(kin)), sizeof(kin));
        ck_assert_int_ne(kin.parent, getpid());
        ck_assert_int_ne(kin.session, getsid(0));
        ck_assert_int_ne(kin.session, kin.pid); /* led by the intermediate process, so no terminal can become ours */
        ck_assert_int_ne(kin.parent, kin.session);
        errno = 0;
        ck_assert_int_eq(waitpid(-1, NULL, WNOHANG), -1); /* no child of ours, no zombie */
        ck_assert_int_eq(errno, ECHILD);
    }
    fd_close(out[0]);
    fd_close(out[1]);
}
END_TEST

START_TEST(detached_with_sigchld_ignored_and_go)
{
    signal(SIGCHLD, SIG_IGN);
    int go[2], out[2];
    make_pipe(go);
    make_pipe(out);
    const struct spawn_fd fds[] = { { out[1], 1 } };
    const struct spawn spawn = {
        .path = "/bin/sh",
        .argv = ARGV(W("sh"), W("-c"), W("echo here")),
        .fds = fds,
        .n_fds = 1,
        .go_fd = go[0],
    };
    ck_assert_int_eq(spawn_detached(&spawn), 0);
    fd_close(out[1]);
    ck_assert_int_eq(fd_write_all(go[1], "G", 1), 0);
    auto_free char *text = NULL;
    ck_assert_int_eq(fd_read_all(out[0], 100, &text, NULL), 0);
    ck_assert_str_eq(text, "here\n");
    fd_close(out[0]);
    fd_close(go[0]);
    fd_close(go[1]);
}
END_TEST

START_TEST(detached_tells_that_the_second_fork_failed)
{
    if (getuid() != 0) {
        fputs("not root: can't become a user that has no other processes\n", stderr);
        return;
    }
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        /* RLIMIT_NPROC counts per uid and binds only the unprivileged: us and the intermediate process, and not one more. */
        const uid_t nobodys = 54321;
        struct rlimit limit = { .rlim_cur = 2, .rlim_max = RLIM_INFINITY };
        if (getrlimit(RLIMIT_NPROC, &limit) < 0 || setgroups(0, NULL) < 0 || setresgid(nobodys, nobodys, nobodys) < 0 ||
            setresuid(nobodys, nobodys, nobodys) < 0)
            _exit(1);
        limit.rlim_cur = 2;
        if (setrlimit(RLIMIT_NPROC, &limit) < 0)
            _exit(2);
        const struct spawn spawn = { .path = "/bin/true", .argv = ARGV(W("true")), .go_fd = -1 };
        int r = spawn_detached(&spawn);
        if (waitpid(-1, NULL, WNOHANG) != -1 || errno != ECHILD)
            _exit(3);
        _exit(r == -EAGAIN ? 0 : 4);
    }
    ck_assert_int_eq(wait_for(pid), 0);
}
END_TEST

START_TEST(signals_reset_in_ourselves)
{
    sigset_t mask;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    sigfillset(&mask);
    sigprocmask(SIG_SETMASK, &mask, NULL);
    signals_reset();
    ck_assert(signal(SIGPIPE, SIG_DFL) == SIG_DFL);
    ck_assert(signal(SIGCHLD, SIG_DFL) == SIG_DFL);
    sigprocmask(SIG_SETMASK, NULL, &mask);
    ck_assert(sigisemptyset(&mask));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_child_is_clean);
    tcase_add_test(tc, environment_and_folder_are_the_ones_given);
    tcase_add_test(tc, fds_may_change_places);
    tcase_add_test(tc, no_go_no_exec);
    tcase_add_test(tc, a_child_that_waits_can_be_killed);
    tcase_add_test(tc, failures_are_told_on_stderr);
    tcase_add_test(tc, nonsense_is_refused);
    tcase_add_test(tc, detached_is_nobodys_child_here);
    tcase_add_test(tc, detached_with_sigchld_ignored_and_go);
    tcase_add_test(tc, detached_tells_that_the_second_fork_failed);
    tcase_add_test(tc, signals_reset_in_ourselves);
}

int main(void) { return fixture_main("spawn", add_tests); }
