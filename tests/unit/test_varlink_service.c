#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "lib/loop/pidwatch.h"
#include "lib/varlink/service.h"
#include "tests/unit/loop_test.h"

static const char interface_text[] = "interface org.example.test\n"
                                     "method Echo(text: string, count: ?int) -> (text: string)\n"
                                     "method Later() -> (n: int)\n"
                                     "method Count(to: int) -> (n: int)\n"
                                     "method Flood() -> (text: string)\n"
                                     "method Raw() -> (ok: bool)\n"
                                     "method Broken(how: string) -> (n: int)\n"
                                     "method Whoami() -> (uid: int, pid: int)\n"
                                     "error Sorry (name: ?string, reason: string)\n";

static struct fixture {
    char dir[32];
    int dirfd;
    struct loop *loop;
    struct varlink_interface *interface;
    struct varlink_service *service;
    struct varlink_call *held[16]; /* calls of Later, Flood and Broken that aren't ended yet */
    size_t n_held, gone, ran;
    bool upgraded;
    int raw_fd;
    char *rest;
    size_t rest_len;
    int last_result;
    char seen[256]; /* texts Echo was called with */
} f;
static int fds_before;

static void echo(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *text = json_string_value(json_object_get(parameters, "text"));
    size_t used = strlen(f.seen);

    ck_assert_ptr_eq(userdata, &f);
    snprintf(f.seen + used, sizeof(f.seen) - used, "%s ", text);
    f.ran++;
    if (streq(text, "sorry"))
        f.last_result = varlink_call_error_reason_consume(call, "org.example.test.Sorry", json_pack("{s:s}", "name", "me"), "no: %d", 7);
    else
        f.last_result = varlink_call_reply_consume(call, json_pack("{s:s}", "text", text));
}

static void on_gone(void *arg)
{
    ck_assert_ptr_eq(arg, &f);
    f.gone++;
    f.n_held--;
}

static void later(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    f.ran++;
    f.held[f.n_held++] = call;
    varlink_call_on_gone(call, on_gone, &f);
}

static void count(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    int to = (int)json_integer_value(json_object_get(parameters, "to"));

    ck_assert(varlink_call_wants_more(call));
    for (int n = 1; n < to; n++)
        ck_assert_int_eq(varlink_call_continue_consume(call, json_pack("{s:i}", "n", n)), 0);
    varlink_call_reply_consume(call, json_pack("{s:i}", "n", to));
}

static void flood(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    static char block[100 * 1000];
    int r = 0;

    memset(block, 'x', sizeof(block) - 1);
    later(call, parameters, userdata);
    for (int n = 0; n < 1000 && r == 0; n++)
        r = varlink_call_continue_consume(call, json_pack("{s:s}", "text", block));
    f.last_result = r;
}

static void on_upgraded(void *arg, int fd, char *rest, size_t rest_len)
{
    ck_assert_ptr_eq(arg, &f);
    f.upgraded = true;
    f.raw_fd = fd;
    f.rest = rest;
    f.rest_len = rest_len;
}

static void raw(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    f.last_result = varlink_call_upgrade_consume(call, json_pack("{s:b}", "ok", 1), on_upgraded, &f);
}

static void broken(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *how = json_string_value(json_object_get(parameters, "how"));

    if (streq(how, "reply"))
        f.last_result = varlink_call_reply_consume(call, json_pack("{s:s}", "n", "not a number"));
    else if (streq(how, "error"))
        f.last_result = varlink_call_error_consume(call, "org.example.test.Unheard", NULL);
    else
        f.last_result = varlink_call_error_consume(call, "org.example.test.Sorry", NULL);
}

static void whoami(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const struct socket_peer *peer = varlink_call_peer(call);

    varlink_call_reply_consume(call, json_pack("{s:i, s:i}", "uid", (int)peer->uid, "pid", (int)peer->pid));
}

static const struct varlink_method methods[] = {
    { .name = "Echo", .run = echo },
    { .name = "Later", .run = later },
    { .name = "Count", .run = count, .more = true },
    { .name = "Flood", .run = flood, .more = true },
    { .name = "Raw", .run = raw, .upgrade = true },
    { .name = "Broken", .run = broken },
    { .name = "Whoami", .run = whoami },
};

static void start(const struct varlink_service_config *extra)
{
    struct varlink_service_config config = *extra;
    struct err err = ERR_INIT;
    int fd;

    config.vendor = "Example";
    config.product = "Test";
    config.version = "1";
    config.url = "https://example.org";
    ck_assert_int_eq(varlink_service_new(f.loop, &config, &f.service), 0);
    ck_assert_msg(varlink_service_add(f.service, f.interface, methods, ARRAY_LEN(methods), &f, &err) == 0, "%s", err.text);
    fd = socket_listen(f.dirfd, "sock", 0666, 64);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(varlink_service_listen_take(f.service, fd), 0);
}

static void setup(void)
{
    fds_before = count_fds();
    f = (struct fixture){ .raw_fd = -1, .dir = "/tmp/holdfast-test-XXXXXX" };
    ck_assert_ptr_nonnull(mkdtemp(f.dir));
    f.dirfd = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(f.dirfd, 0);
    ck_assert_int_eq(loop_new(&f.loop), 0);
    ck_assert_int_eq(varlink_interface_parse(interface_text, &f.interface, NULL), 0);
}

static void teardown(void)
{
    varlink_service_free(f.service);
    varlink_interface_free(f.interface);
    loop_free(f.loop);
    fd_close(f.raw_fd);
    free(f.rest);
    fd_close(f.dirfd);
    ck_assert_int_eq(dir_remove_tree(AT_FDCWD, f.dir), 0);
    ck_assert_int_eq(count_fds(), fds_before);
}

/* ---- a client of few words ---- */

static int client(void)
{
    int fd = socket_connect(f.dirfd, "sock");

    ck_assert_int_ge(fd, 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t len = strlen(text) + 1;

    ck_assert_int_eq(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

/* The next message; NULL at the end of the connection. */
static json_t *hear(int fd)
{
    static char buf[1024 * 1024];
    size_t len = 0;
    json_t *json = NULL;
    struct err err = ERR_INIT;

    for (;;) {
        ssize_t n = -1;

        run_until(f.loop, (n = recv(fd, buf + len, 1, 0)) >= 0 || errno != EAGAIN);
        if (n <= 0)
            return NULL;
        if (buf[len] == '\0')
            break;
        len++;
        ck_assert_uint_lt(len, sizeof(buf));
    }
    ck_assert_msg(json_parse(buf, len, &json, &err) == 0, "%s in %s", err.text, buf);
    return json;
}

static void expect(int fd, const char *wanted)
{
    json_t *got = hear(fd);
    char *text;

    if (!wanted) {
        ck_assert_ptr_null(got);
        return;
    }
    ck_assert_ptr_nonnull(got);
    text = json_dumps(got, JSON_COMPACT | JSON_SORT_KEYS);
    ck_assert_str_eq(text, wanted);
    free(text);
    json_decref(got);
}

static void all_gone(void) { run_until(f.loop, varlink_service_connections(f.service) == 0); }

static const struct {
    const char *call, *reply;
} exchanges[] = {
    { "{\"method\":\"org.varlink.service.GetInfo\"}",
      "{\"parameters\":{\"interfaces\":[\"org.varlink.service\",\"org.example.test\"],\"product\":\"Test\",\"url\":\"https://example.org\","
      "\"vendor\":\"Example\",\"version\":\"1\"}}" },
    { "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"no.such\"}}",
      "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"no.such\"}}" },
    { "{\"method\":\"org.varlink.service.GetInterfaceDescription\"}",
      "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"interface\"}}" },
    { "{\"method\":\"no.such.Method\"}",
      "{\"error\":\"org.varlink.service.InterfaceNotFound\",\"parameters\":{\"interface\":\"no.such\"}}" },
    { "{\"method\":\"org.example.test.Nope\"}",
      "{\"error\":\"org.varlink.service.MethodNotFound\",\"parameters\":{\"method\":\"org.example.test.Nope\"}}" },
    { "{\"method\":\"nodots\"}", "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"method\"}}" },
    { "{\"method\":\"a.b.\"}", "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"method\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\"}}", "{\"parameters\":{\"text\":\"hi\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\",\"count\":null,\"new\":[1]},\"newer\":1}",
      "{\"parameters\":{\"text\":\"hi\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":7}}",
      "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"text\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"sorry\"}}",
      "{\"error\":\"org.example.test.Sorry\",\"parameters\":{\"name\":\"me\",\"reason\":\"no: 7\"}}" },
    { "{\"method\":\"org.example.test.Count\",\"parameters\":{\"to\":2}}",
      "{\"error\":\"org.varlink.service.ExpectedMore\",\"parameters\":{}}" },
    { "{\"method\":\"org.example.test.Raw\"}",
      "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\"},\"upgrade\":true}",
      "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}" },
    { "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"hi\"},\"more\":true}", "{\"parameters\":{\"text\":\"hi\"}}" },
};

START_TEST(answers)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, exchanges[_i].call);
    expect(fd, exchanges[_i].reply);
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"still here\"}}");
    expect(fd, "{\"parameters\":{\"text\":\"still here\"}}");
    fd_close(fd);
    all_gone();
}
END_TEST

START_TEST(describes_itself)
{
    static const char *const names[] = { "org.varlink.service", "org.example.test" };
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    for (size_t n = 0; n < ARRAY_LEN(names); n++) {
        struct varlink_interface *i = NULL;
        char call[256];
        json_t *reply;

        snprintf(call, sizeof(call), "{\"method\":\"org.varlink.service.GetInterfaceDescription\",\"parameters\":{\"interface\":\"%s\"}}",
                 names[n]);
        say(fd, call);
        reply = hear(fd);
        ck_assert_int_eq(
            varlink_interface_parse(json_string_value(json_object_get(json_object_get(reply, "parameters"), "description")), &i, NULL), 0);
        ck_assert_str_eq(varlink_interface_name(i), names[n]);
        varlink_interface_free(i);
        json_decref(reply);
    }
    fd_close(fd);
}
END_TEST

static const char *const garbage[] = {
    "garbage",
    "{",
    "[]",
    "{\"method\":3}",
    "{\"nomethod\":1}",
    "",
    "{\"method\":\"a.b.C\",\"more\":true,\"oneway\":true}",
    "{\"method\":\"a.b.C\",\"parameters\":[]}",
    "{\"method\":\"a.b.C\",\"method\":\"a.b.D\"}",
};

START_TEST(garbage_closes)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, garbage[_i]);
    expect(fd, NULL);
    fd_close(fd);
    all_gone();
}
END_TEST

START_TEST(more_and_continues)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Count\",\"parameters\":{\"to\":3},\"more\":true}");
    expect(fd, "{\"continues\":true,\"parameters\":{\"n\":1}}");
    expect(fd, "{\"continues\":true,\"parameters\":{\"n\":2}}");
    expect(fd, "{\"parameters\":{\"n\":3}}");
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    run_until(f.loop, f.n_held == 1);
    ck_assert_int_eq(varlink_call_continue_consume(f.held[0], json_pack("{s:i}", "n", 1)), -EPROTO);
    ck_assert_int_eq(varlink_call_reply_consume(f.held[0], json_pack("{s:i}", "n", 1)), 0);
    f.n_held = 0;
    expect(fd, "{\"parameters\":{\"n\":1}}");
    fd_close(fd);
}
END_TEST

START_TEST(oneway_is_silent)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"a\"},\"oneway\":true}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"sorry\"},\"oneway\":true}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":3},\"oneway\":true}");
    say(fd, "{\"method\":\"no.such.Thing\",\"oneway\":true}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}");
    expect(fd, "{\"parameters\":{\"text\":\"b\"}}");
    ck_assert_str_eq(f.seen, "a sorry b ");
    fd_close(fd);
}
END_TEST

/* A oneway call lives on when its client has gone, and even its service: it has no one to tell. */
START_TEST(oneway_outlives_its_client)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Later\",\"oneway\":true}");
    run_until(f.loop, f.n_held == 1);
    fd_close(fd);
    all_gone();
    ck_assert_uint_eq(f.gone, 0);
    ck_assert_uint_eq(varlink_call_queued(f.held[0]), 0);
    varlink_service_free(steal_ptr(&f.service));
    ck_assert_int_eq(varlink_call_reply_consume(f.held[0], json_pack("{s:i}", "n", 1)), 0);
}
END_TEST

START_TEST(pipelined_calls_are_answered_in_order)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}");
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"c\"}}");
    run_until(f.loop, f.n_held == 1);
    run_settled(f.loop);
    ck_assert_str_eq(f.seen, "");
    varlink_call_reply_consume(f.held[0], json_pack("{s:i}", "n", 1));
    run_until(f.loop, f.n_held == 2);
    varlink_call_reply_consume(f.held[1], json_pack("{s:i}", "n", 2));
    expect(fd, "{\"parameters\":{\"n\":1}}");
    expect(fd, "{\"parameters\":{\"text\":\"b\"}}");
    expect(fd, "{\"parameters\":{\"n\":2}}");
    expect(fd, "{\"parameters\":{\"text\":\"c\"}}");
    fd_close(fd);
}
END_TEST

/* More calls than may wait: reading pauses, nothing is lost. */
START_TEST(many_pipelined_calls)
{
    static char pad[8000];
    char call[9000];
    int fd;

    memset(pad, 'p', sizeof(pad) - 1);
    snprintf(call, sizeof(call), "{\"method\":\"org.example.test.Whoami\",\"pad\":\"%s\"}", pad);
    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    for (int n = 0; n < 40; n++) {
        run_until(f.loop, send(fd, call, 100, MSG_NOSIGNAL | MSG_DONTWAIT) == 100);
        for (size_t sent = 100; sent < strlen(call) + 1;) {
            ssize_t k = send(fd, call + sent, strlen(call) + 1 - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

            sent += k > 0 ? (size_t)k : 0;
            ev_run(loop_ev(f.loop), EVRUN_NOWAIT);
        }
        if (n == 20) {
            ck_assert_uint_eq(f.n_held, 1);
            varlink_call_reply_consume(f.held[0], json_pack("{s:i}", "n", 1));
        }
    }
    expect(fd, "{\"parameters\":{\"n\":1}}");
    for (int n = 0; n < 40; n++)
        json_decref(hear(fd));
    fd_close(fd);
}
END_TEST

START_TEST(client_vanishes_mid_call)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    if (_i)
        say(fd, "{\"method\":\"org.example.test.Later\"}");
    run_until(f.loop, f.n_held == 1);
    fd_close(fd);
    run_until(f.loop, f.gone == 1);
    all_gone();
    ck_assert_uint_eq(f.ran, 1);
}
END_TEST

START_TEST(free_tells_calls_under_way)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Later\"}");
    run_until(f.loop, f.n_held == 1);
    varlink_service_free(steal_ptr(&f.service));
    ck_assert_uint_eq(f.gone, 1);
    expect(fd, NULL);
    fd_close(fd);
}
END_TEST

START_TEST(upgrade_keeps_the_bytes_behind)
{
    static const char behind[] = "raw\0bytes";
    static const char request[] = "{\"method\":\"org.example.test.Raw\",\"upgrade\":true}";
    char all[128];
    char buf[8];
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    if (_i) /* the request itself waits for its turn */
        say(fd, "{\"method\":\"org.example.test.Later\"}");
    memcpy(all, request, sizeof(request));
    memcpy(all + sizeof(request), behind, sizeof(behind));
    ck_assert_int_eq(send(fd, all, sizeof(request) + sizeof(behind), 0), (ssize_t)(sizeof(request) + sizeof(behind)));
    if (_i) {
        run_until(f.loop, f.n_held == 1);
        run_settled(f.loop);
        ck_assert(!f.upgraded);
        varlink_call_reply_consume(f.held[0], json_pack("{s:i}", "n", 1));
        expect(fd, "{\"parameters\":{\"n\":1}}");
    }
    expect(fd, "{\"parameters\":{\"ok\":true}}");
    run_until(f.loop, f.upgraded);
    ck_assert_int_ge(f.raw_fd, 0);
    ck_assert_uint_eq(f.rest_len, sizeof(behind));
    ck_assert_int_eq(memcmp(f.rest, behind, sizeof(behind)), 0);
    ck_assert_uint_eq(varlink_service_connections(f.service), 0);
    ck_assert_int_eq(send(fd, "more", 4, 0), 4);
    ck_assert_int_eq(recv(f.raw_fd, buf, sizeof(buf), 0), 4);
    fd_close(fd);
}
END_TEST

START_TEST(calls_go_on_after_a_refused_upgrade)
{
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"a\"},\"upgrade\":true}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}");
    expect(fd, "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}");
    expect(fd, "{\"parameters\":{\"text\":\"b\"}}");
    fd_close(fd);
}
END_TEST

START_TEST(message_too_long_closes)
{
    static char block[65536];
    int fd;
    ssize_t n = 0;

    memset(block, ' ', sizeof(block));
    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    start(&(struct varlink_service_config){ .group = (gid_t)-1, .frame_timeout_ms = 50 });
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

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    start(&(struct varlink_service_config){ .group = (gid_t)-1, .connections_max = _i ? 3 : 10, .connections_per_uid = _i ? 10 : 3 });
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

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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
    start(&(struct varlink_service_config){ .group = cases[_i].group });
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

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

#ifdef HOLDFAST_FAILPOINTS
static const char *const broken_how[] = { "reply", "error", "parameters" };

START_TEST(a_misfit_stops_test_builds)
{
    char call[128];
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    snprintf(call, sizeof(call), "{\"method\":\"org.example.test.Broken\",\"parameters\":{\"how\":\"%s\"}}", broken_how[_i]);
    say(fd, call);
    json_decref(hear(fd));
}
END_TEST
#else
static const struct {
    const char *how, *reply;
} broken_how[] = {
    { "reply", "{\"error\":\"io.holdfast.InternalError\",\"parameters\":{\"reason\":\"n: expected integer, got string\"}}" },
    { "error", "{\"error\":\"io.holdfast.InternalError\",\"parameters\":{\"reason\":\"org.example.test has no error Unheard\"}}" },
    { "parameters", "{\"error\":\"io.holdfast.InternalError\",\"parameters\":{\"reason\":\"reason: missing\"}}" },
};

START_TEST(a_misfit_is_told)
{
    char call[128];
    int fd;

    start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    snprintf(call, sizeof(call), "{\"method\":\"org.example.test.Broken\",\"parameters\":{\"how\":\"%s\"}}", broken_how[_i].how);
    say(fd, call);
    expect(fd, broken_how[_i].reply);
    ck_assert_int_eq(f.last_result, -EINVAL);
    fd_close(fd);
}
END_TEST
#endif

START_TEST(table_and_description_must_agree)
{
    static const struct varlink_method extra[] = { { .name = "Echo", .run = echo }, { .name = "Undescribed", .run = echo } };
    struct err err = ERR_INIT;

    ck_assert_int_eq(varlink_service_new(f.loop, &(struct varlink_service_config){ .group = (gid_t)-1 }, &f.service), 0);
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, extra, 2, &f, &err), -EINVAL);
    ck_assert_str_eq(err.text, "org.example.test: method Undescribed is implemented but not described");
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, methods, 2, &f, &err), -EINVAL);
    ck_assert_str_eq(err.text, "org.example.test: method Count is described but not implemented");
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, methods, ARRAY_LEN(methods), &f, &err), 0);
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, methods, ARRAY_LEN(methods), &f, &err), -EEXIST);
    ck_assert_int_eq(varlink_service_listen_take(f.service, -1), -EBADF);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("varlink_service");
    TCase *tc = tcase_create("service");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, answers, 0, ARRAY_LEN(exchanges));
    tcase_add_test(tc, describes_itself);
    tcase_add_loop_test(tc, garbage_closes, 0, ARRAY_LEN(garbage));
    tcase_add_test(tc, more_and_continues);
    tcase_add_test(tc, oneway_is_silent);
    tcase_add_test(tc, oneway_outlives_its_client);
    tcase_add_test(tc, pipelined_calls_are_answered_in_order);
    tcase_add_test(tc, many_pipelined_calls);
    tcase_add_loop_test(tc, client_vanishes_mid_call, 0, 2);
    tcase_add_test(tc, free_tells_calls_under_way);
    tcase_add_loop_test(tc, upgrade_keeps_the_bytes_behind, 0, 2);
    tcase_add_test(tc, calls_go_on_after_a_refused_upgrade);
    tcase_add_test(tc, message_too_long_closes);
    tcase_add_test(tc, half_a_message_times_out);
    tcase_add_test(tc, slow_reader_is_cut_off);
    tcase_add_loop_test(tc, connections_are_capped, 0, 2);
    tcase_add_test(tc, peer_credentials);
    tcase_add_loop_test(tc, who_may_call, 0, 4);
    tcase_add_test(tc, accepting_pauses_without_descriptors);
#ifdef HOLDFAST_FAILPOINTS
    tcase_add_loop_test_raise_signal(tc, a_misfit_stops_test_builds, SIGABRT, 0, ARRAY_LEN(broken_how));
#else
    tcase_add_loop_test(tc, a_misfit_is_told, 0, ARRAY_LEN(broken_how));
#endif
    tcase_add_test(tc, table_and_description_must_agree);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
