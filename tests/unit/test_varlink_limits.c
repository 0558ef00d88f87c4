/* lib/varlink/service.h: how long, how much, how many, and who may. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/socket.h"
#include "lib/loop/pidwatch.h"
#include "tests/unit/loop_test.h"
#include "tests/unit/service_fixture.h"

START_TEST(message_too_long_closes)
{
    static char block[65536];
    int fd;
    ssize_t n = 0;

    memset(block, ' ', sizeof(block));
    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    for (size_t sent = 0; sent < 3 * VARLINK_MESSAGE_MAX && (n >= 0 || errno == EAGAIN); sent += n > 0 ? (size_t)n : 0) {
        n = send(fd, block, sizeof(block), MSG_NOSIGNAL);
        ev_run(loop_ev(f.loop), EVRUN_NOWAIT);
    }
    ck_assert_int_lt(n, 0);
    ck_assert_int_eq(errno, EPIPE);
    all_gone();
    fd_close(fd);
}
END_TEST

START_TEST(half_a_message_times_out)
{
    int fd;

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1, .frame_timeout_ms = 50 });
    fd = client();
    ck_assert_int_eq(send(fd, "{\"method\":", 10, 0), 10);
    run_until(f.loop, varlink_service_connections(f.service) == 1);
    all_gone();
    expect(fd, NULL);
    fd_close(fd);
}
END_TEST

START_TEST(slow_reader_is_cut_off)
{
    int fd;

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Flood\",\"more\":true}");
    run_until(f.loop, f.ran == 1);
    ck_assert_int_eq(f.last_result, -ENOBUFS);
    run_until(f.loop, f.gone == 1);
    all_gone();
    fd_close(fd);
}
END_TEST

#define TOO_MANY "{\"error\":\"io.holdfast.TooManyConnections\",\"parameters\":{\"reason\":\"too many connections, try again later\"}}"

START_TEST(connections_are_capped)
{
    int fds[4];

    service_start(
        &(struct varlink_service_config){ .group = (gid_t)-1, .connections_max = _i ? 3 : 10, .connections_per_uid = _i ? 10 : 3 });
    for (int n = 0; n < 3; n++)
        fds[n] = client();
    run_until(f.loop, varlink_service_connections(f.service) == 3);
    fds[3] = client();
    expect(fds[3], TOO_MANY);
    expect(fds[3], NULL);
    fd_close(fds[3]);
    fd_close(fds[0]);
    run_until(f.loop, varlink_service_connections(f.service) == 2);
    fds[0] = client();
    say(fds[0], "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}");
    expect(fds[0], "{\"parameters\":{\"text\":\"b\"}}");
    for (int n = 0; n < 3; n++)
        fd_close(fds[n]);
}
END_TEST

START_TEST(peer_credentials)
{
    char wanted[128];
    int fd;

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Whoami\"}");
    snprintf(wanted, sizeof(wanted), "{\"parameters\":{\"pid\":%d,\"uid\":%d}}", (int)getpid(), (int)getuid());
    expect(fd, wanted);
    fd_close(fd);
}
END_TEST

/* Runs one call as another user in a child: 0 when the reply has `wanted` in it and, if `closed`, the end follows. */
static pid_t call_as(uid_t uid, gid_t gid, const char *wanted, bool closed)
{
    pid_t pid = fork();

    if (pid == 0) {
        static const char call[] = "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}";
        char buf[1024] = "";
        ssize_t n;
        int fd;

        if (setresgid(gid, gid, gid) < 0 || setresuid(uid, uid, uid) < 0)
            _exit(3);
        fd = socket_connect(f.dirfd, "sock");
        if (fd < 0 || fd_set_nonblock(fd, false) < 0)
            _exit(4);
        if (send(fd, call, sizeof(call), MSG_NOSIGNAL) != sizeof(call))
            _exit(5);
        n = recv(fd, buf, sizeof(buf) - 1, 0);
        if (n <= 0 || !strstr(buf, wanted))
            _exit(6);
        _exit(closed && recv(fd, buf, sizeof(buf), 0) != 0 ? 7 : 0);
    }
    return pid;
}

static bool child_exited;

static void on_child_exit(struct pidwatch *w) { child_exited = true; }

START_TEST(who_may_call)
{
    static const struct {
        uid_t uid;
        gid_t gid, group;
        const char *wanted;
    } cases[] = {
        { 65534, 65534, (gid_t)-1, "\"org.varlink.service.PermissionDenied\"" },
        { 65534, 65534, 4242, "\"org.varlink.service.PermissionDenied\"" },
        { 65534, 4242, 4242, "{\"text\":\"b\"}" },
        { 0, 0, (gid_t)-1, "{\"text\":\"b\"}" },
    };
    bool denied = strstr(cases[_i].wanted, "Denied");
    struct pidref ref = PIDREF_NONE;
    struct pidwatch watch = { 0 };
    int status = -1;
    pid_t pid;

    if (geteuid() != 0) {
        printf("SKIP who_may_call: needs root to become another user\n");
        return;
    }
    ck_assert_int_eq(chmod(f.dir, 0755), 0);
    service_start(&(struct varlink_service_config){ .group = cases[_i].group });
    pid = call_as(cases[_i].uid, cases[_i].gid, cases[_i].wanted, denied);
    ck_assert_int_gt(pid, 0);
    ck_assert_int_eq(pidref_open(pid, &ref), 0);
    pidwatch_start(&watch, f.loop, &ref, on_child_exit, NULL);
    run_until(f.loop, child_exited);
    pidref_done(&ref);
    ck_assert_int_eq(waitpid(pid, &status, 0), pid);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert_uint_eq(f.ran, denied ? 0 : 1);
}
END_TEST

static void tick(struct ev_loop *ev, ev_timer *w, int revents) {}

START_TEST(accepting_pauses_without_descriptors)
{
    struct rlimit saved, low;
    ev_timer ticker;
    ev_tstamp began;
    int fd, probe;

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    probe = fcntl(f.dirfd, F_DUPFD_CLOEXEC, 0); /* the lowest free number */
    fd_close(probe);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &saved), 0);
    low = saved;
    low.rlim_cur = (rlim_t)probe;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &low), 0);
    run_settled(f.loop);
    ck_assert_uint_eq(varlink_service_connections(f.service), 0);
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &saved), 0);
    /* Accepting is off although there would be room again: only the timer turns it on. */
    run_settled(f.loop);
    ck_assert_uint_eq(varlink_service_connections(f.service), 0);
    ev_timer_init(&ticker, tick, 0., 0.05);
    ev_timer_start(loop_ev(f.loop), &ticker);
    began = ev_time();
    run_until(f.loop, varlink_service_connections(f.service) == 1);
    ev_timer_stop(loop_ev(f.loop), &ticker);
    ck_assert(ev_time() - began > 0.5);
    fd_close(fd);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, message_too_long_closes);
    tcase_add_test(tc, half_a_message_times_out);
    tcase_add_test(tc, slow_reader_is_cut_off);
    tcase_add_loop_test(tc, connections_are_capped, 0, 2);
    tcase_add_test(tc, peer_credentials);
    tcase_add_loop_test(tc, who_may_call, 0, 4);
    tcase_add_test(tc, accepting_pauses_without_descriptors);
}

int main(void) { return service_main("varlink_limits", add_tests); }
