#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/varlink/peer.h"
#include "tests/unit/loop_test.h"

static const char interface_text[] = "interface org.example.test\n"
                                     "method Echo(text: string) -> (text: string)\n"
                                     "method Count() -> (n: int)\n"
                                     "error Sorry (reason: string)\n";

/* The peer under test; the test itself is the service on the other end, speaking by hand. */
static struct fixture {
    struct loop *loop;
    struct varlink_interface *interface;
    struct varlink_peer *peer;
    int fd;
    char told[512]; /* what the callbacks were told, in order */
    bool closed, free_in_reply, free_in_closed, call_in_reply;
} f;
static int fds_before;

static void note(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *fmt, ...)
{
    size_t used = strlen(f.told);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(f.told + used, sizeof(f.told) - used, fmt, ap);
    va_end(ap);
}

static void on_closed(void *arg, int error)
{
    ck_assert_ptr_eq(arg, &f);
    ck_assert(!f.closed);
    f.closed = true;
    note("closed(%s) ", error ? strerrorname_np(-error) : "0");
    if (f.free_in_closed)
        varlink_peer_free(steal_ptr(&f.peer));
}

static void on_reply(void *arg, const struct varlink_reply *r)
{
    const char *name = arg;

    if (r->failure) {
        ck_assert_ptr_null(r->parameters);
        note("%s:%s ", name, strerrorname_np(-r->failure));
    } else if (r->error) {
        const char *dot = strrchr(r->error, '.');

        note("%s:error %s ", name, dot + 1);
    } else {
        char *text = json_dumps(r->parameters, JSON_COMPACT);

        note("%s:%s%s ", name, text, r->continues ? "+" : "");
        free(text);
    }
    if (f.call_in_reply) {
        f.call_in_reply = false;
        ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Count", NULL, 0, 0, on_reply, (void *)(uintptr_t) "again"), 0);
    }
    if (f.free_in_reply)
        varlink_peer_free(steal_ptr(&f.peer));
}

static void setup(void)
{
    int pair[2];

    fds_before = count_fds();
    f = (struct fixture){ .fd = -1 };
    ck_assert_int_eq(loop_new(&f.loop), 0);
    ck_assert_int_eq(varlink_interface_parse(interface_text, &f.interface, NULL), 0);
    ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    f.fd = pair[1];
    ck_assert_int_eq(varlink_peer_new_take(f.loop, pair[0], f.interface, on_closed, &f, &f.peer), 0);
}

static void teardown(void)
{
    varlink_peer_free(f.peer);
    loop_free(f.loop);
    varlink_interface_free(f.interface);
    fd_close(f.fd);
    ck_assert_int_eq(count_fds(), fds_before);
}

static int call_echo(const char *name, uint64_t timeout_ms)
{
    return varlink_peer_call_consume(f.peer, "Echo", json_pack("{s:s}", "text", "hi"), 0, timeout_ms, on_reply, (void *)(uintptr_t)name);
}

static void serve(const char *text)
{
    size_t len = strlen(text) + 1;

    ck_assert_int_eq(send(f.fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

static void expect_sent(const char *wanted, size_t len)
{
    char buf[1024] = "";

    ck_assert_int_eq(recv(f.fd, buf, sizeof(buf), 0), (ssize_t)len);
    ck_assert_int_eq(memcmp(buf, wanted, len), 0);
}
#define ECHO_CALL "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\"}}"

START_TEST(calls_are_sent_and_answered_in_order)
{
    ck_assert_int_eq(call_echo("a", 0), 0);
    ck_assert_int_eq(call_echo("b", 10000), 0);
    expect_sent(ECHO_CALL "\0" ECHO_CALL, 2 * sizeof(ECHO_CALL));
    serve("{\"parameters\":{\"text\":\"1\"}}");
    serve("{\"parameters\":{\"text\":\"2\",\"new\":3}}");
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "a:{\"text\":\"1\"} b:{\"text\":\"2\",\"new\":3} ");
    f.fd = fd_close(f.fd);
    run_until(f.loop, f.closed);
    ck_assert_str_eq(strchr(f.told, 'c'), "closed(0) ");
}
END_TEST

START_TEST(oneway_expects_nothing)
{
    static const char call[] = "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\"},\"oneway\":true}";

    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Echo", json_pack("{s:s}", "text", "hi"), VARLINK_ONEWAY, 0, NULL, NULL), 0);
    expect_sent(call, sizeof(call));
    ck_assert_int_eq(call_echo("a", 0), 0);
    serve("{\"parameters\":{\"text\":\"1\"}}");
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "a:{\"text\":\"1\"} ");
}
END_TEST

START_TEST(more_goes_on)
{
    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Count", NULL, VARLINK_MORE, 10000, on_reply, (void *)(uintptr_t) "m"), 0);
    serve("{\"parameters\":{\"n\":1},\"continues\":true}");
    serve("{\"parameters\":{\"n\":2},\"continues\":true}");
    serve("{\"parameters\":{\"n\":3}}");
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "m:{\"n\":1}+ m:{\"n\":2}+ m:{\"n\":3} ");
    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Count", NULL, VARLINK_MORE | VARLINK_ONEWAY, 0, on_reply, NULL), -EINVAL);
}
END_TEST

START_TEST(errors_are_told)
{
    for (int n = 0; n < 4; n++)
        ck_assert_int_eq(call_echo("a", 0), 0);
    serve("{\"error\":\"org.example.test.Sorry\",\"parameters\":{\"reason\":\"x\"}}");
    serve("{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"x\"}}");
    serve("{\"error\":\"org.example.test.NewerThanUs\"}");
    serve("{\"error\":\"org.example.test.Sorry\",\"parameters\":{}}"); /* not as described */
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "a:error Sorry a:error MethodNotFound a:error NewerThanUs a:EPROTO ");
    ck_assert(!f.closed);
}
END_TEST

START_TEST(misfit_reply_fails_its_call_alone)
{
    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Count", NULL, VARLINK_MORE, 0, on_reply, (void *)(uintptr_t) "m"), 0);
    ck_assert_int_eq(call_echo("a", 0), 0);
    serve("{\"parameters\":{\"n\":\"x\"},\"continues\":true}");
    serve("{\"parameters\":{\"n\":2},\"continues\":true}");
    serve("{\"parameters\":{\"n\":3}}");
    serve("{\"parameters\":{\"text\":\"1\"}}");
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "m:EPROTO a:{\"text\":\"1\"} ");
    ck_assert(!f.closed);
}
END_TEST

static const char *const bad_replies[] = { "garbage", "[]", "{\"error\":3}", "{\"parameters\":{\"text\":\"1\"},\"continues\":true}" };

START_TEST(garbage_closes)
{
    ck_assert_int_eq(call_echo("a", 0), 0);
    serve(bad_replies[_i]);
    run_until(f.loop, f.closed);
    ck_assert_str_eq(f.told, "a:ECONNRESET closed(EPROTO) ");
    ck_assert_int_eq(call_echo("b", 0), -ENOTCONN);
}
END_TEST

START_TEST(reply_without_call_closes)
{
    serve("{\"parameters\":{}}");
    run_until(f.loop, f.closed);
    ck_assert_str_eq(f.told, "closed(EPROTO) ");
}
END_TEST

START_TEST(timeout_fails_call_and_connection)
{
    ck_assert_int_eq(call_echo("a", 0), 0);
    ck_assert_int_eq(call_echo("b", 30), 0);
    ck_assert_int_eq(call_echo("c", 0), 0);
    run_until(f.loop, f.closed);
    ck_assert_str_eq(f.told, "b:ETIMEDOUT a:ECONNRESET c:ECONNRESET closed(ETIMEDOUT) ");
}
END_TEST

START_TEST(lost_connection_is_told)
{
    ck_assert_int_eq(call_echo("a", 10000), 0);
    ck_assert_int_eq(call_echo("b", 0), 0);
    expect_sent(ECHO_CALL "\0" ECHO_CALL, 2 * sizeof(ECHO_CALL));
    f.fd = fd_close(f.fd);
    run_until(f.loop, f.closed);
    ck_assert_str_eq(f.told, "a:ECONNRESET b:ECONNRESET closed(0) ");
}
END_TEST

/* A service that refuses us says so and closes before we ever call. */
START_TEST(last_words_reach_the_call)
{
    serve("{\"error\":\"org.varlink.service.PermissionDenied\",\"parameters\":{}}");
    f.fd = fd_close(f.fd);
    ck_assert_int_eq(call_echo("a", 0), 0);
    run_until(f.loop, f.closed);
    ck_assert_str_eq(f.told, "a:error PermissionDenied closed(EPIPE) ");
}
END_TEST

START_TEST(bad_parameters_are_not_sent)
{
    char buf[8];

    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Echo", NULL, 0, 0, on_reply, NULL), -EINVAL);
    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Echo", json_pack("{s:s, s:i}", "text", "x", "extra", 1), 0, 0, on_reply, NULL),
                     -EINVAL);
    ck_assert_int_eq(varlink_peer_call_consume(f.peer, "Missing", NULL, 0, 0, on_reply, NULL), -EINVAL);
    ck_assert_int_eq(recv(f.fd, buf, sizeof(buf), 0), -1);
    ck_assert_str_eq(f.told, "");
}
END_TEST

START_TEST(free_and_call_inside_callbacks)
{
    f.free_in_reply = _i == 0;
    f.free_in_closed = _i == 1;
    f.call_in_reply = _i == 2;
    ck_assert_int_eq(call_echo("a", 10000), 0);
    ck_assert_int_eq(call_echo("b", 10000), 0);
    serve("{\"parameters\":{\"text\":\"1\"}}");
    serve("{\"parameters\":{\"text\":\"2\"}}");
    if (_i == 2)
        serve("{\"parameters\":{\"n\":3}}");
    run_settled(f.loop);
    f.fd = fd_close(f.fd); /* with our calls unread in it: a reset */
    run_until(f.loop, _i == 2 ? f.closed : !f.peer);
    run_settled(f.loop);
    ck_assert_str_eq(f.told, _i == 0   ? "a:{\"text\":\"1\"} "
                             : _i == 1 ? "a:{\"text\":\"1\"} b:{\"text\":\"2\"} closed(ECONNRESET) "
                                       : "a:{\"text\":\"1\"} b:{\"text\":\"2\"} again:{\"n\":3} closed(ECONNRESET) ");
}
END_TEST

START_TEST(free_while_the_end_is_told)
{
    f.free_in_reply = true;
    ck_assert_int_eq(call_echo("a", _i ? 10 : 0), 0);
    ck_assert_int_eq(call_echo("b", 10000), 0);
    if (!_i)
        f.fd = fd_close(f.fd);
    run_until(f.loop, !f.peer);
    run_settled(f.loop);
    ck_assert_str_eq(f.told, _i ? "a:ETIMEDOUT " : "a:ECONNRESET ");
}
END_TEST

START_TEST(free_with_calls_under_way)
{
    ck_assert_int_eq(call_echo("a", 10), 0);
    varlink_peer_free(steal_ptr(&f.peer));
    run_settled(f.loop);
    ck_assert_str_eq(f.told, "");
    varlink_peer_free(NULL);
}
END_TEST

/* A manager holds a peer with a stream of events for every VM: what an idle one keeps on the heap is kept small. (Under ASan the
 * allocator counts nothing and this passes without saying anything.) */
START_TEST(idle_peer_is_small)
{
    enum { WARM = 28, N = 100 };
    struct varlink_peer *peers[WARM + N];
    int fds[WARM + N];
    size_t before = 0, after;

    for (int n = 0; n < WARM + N; n++) {
        int pair[2];

        if (n == WARM) /* the tables of libev have grown, the allocator has its caches */
            before = mallinfo2().uordblks;
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
        fds[n] = pair[1];
        ck_assert_int_eq(varlink_peer_new_take(f.loop, pair[0], f.interface, NULL, NULL, &peers[n]), 0);
        ck_assert_int_eq(varlink_peer_call_consume(peers[n], "Count", NULL, VARLINK_MORE, 1000, on_reply, (void *)(uintptr_t) "m"), 0);
    }
    after = mallinfo2().uordblks;
    ck_assert_uint_lt((after - before) / N, 600);
    for (int n = 0; n < WARM + N; n++) {
        varlink_peer_free(peers[n]);
        fd_close(fds[n]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("varlink_peer");
    TCase *tc = tcase_create("peer");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, calls_are_sent_and_answered_in_order);
    tcase_add_test(tc, oneway_expects_nothing);
    tcase_add_test(tc, more_goes_on);
    tcase_add_test(tc, errors_are_told);
    tcase_add_test(tc, misfit_reply_fails_its_call_alone);
    tcase_add_loop_test(tc, garbage_closes, 0, ARRAY_LEN(bad_replies));
    tcase_add_test(tc, reply_without_call_closes);
    tcase_add_test(tc, timeout_fails_call_and_connection);
    tcase_add_test(tc, lost_connection_is_told);
    tcase_add_test(tc, last_words_reach_the_call);
    tcase_add_test(tc, bad_parameters_are_not_sent);
    tcase_add_loop_test(tc, free_and_call_inside_callbacks, 0, 3);
    tcase_add_loop_test(tc, free_while_the_end_is_told, 0, 2);
    tcase_add_test(tc, free_with_calls_under_way);
    tcase_add_test(tc, idle_peer_is_small);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
