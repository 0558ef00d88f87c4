/* lib/varlink/service.h: what is answered, in which order, and to whom when the client has gone. */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "tests/unit/loop_test.h"
#include "tests/unit/service_fixture.h"

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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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
    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
    fd = client();
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"a\"},\"upgrade\":true}");
    say(fd, "{\"method\":\"org.example.test.Echo\",\"parameters\":{\"text\":\"b\"}}");
    expect(fd, "{\"error\":\"org.varlink.service.InvalidParameter\",\"parameters\":{\"parameter\":\"upgrade\"}}");
    expect(fd, "{\"parameters\":{\"text\":\"b\"}}");
    fd_close(fd);
}
END_TEST

#ifdef HOLDFAST_FAILPOINTS
static const char *const broken_how[] = { "reply", "error", "parameters" };

START_TEST(a_misfit_stops_test_builds)
{
    char call[128];
    int fd;

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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

    service_start(&(struct varlink_service_config){ .group = (gid_t)-1 });
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
    const struct varlink_method extra[] = { service_methods[0], { .name = "Undescribed", .run = service_methods[0].run } };
    struct err err = ERR_INIT;

    ck_assert_int_eq(varlink_service_new(f.loop, &(struct varlink_service_config){ .group = (gid_t)-1 }, &f.service), 0);
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, extra, 2, &f, &err), -EINVAL);
    ck_assert_str_eq(err.text, "org.example.test: method Undescribed is implemented but not described");
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, service_methods, 2, &f, &err), -EINVAL);
    ck_assert_str_eq(err.text, "org.example.test: method Count is described but not implemented");
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, service_methods, SERVICE_METHODS, &f, &err), 0);
    ck_assert_int_eq(varlink_service_add(f.service, f.interface, service_methods, SERVICE_METHODS, &f, &err), -EEXIST);
    ck_assert_int_eq(varlink_service_listen_take(f.service, -1), -EBADF);
}
END_TEST

static void add_tests(TCase *tc)
{
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
#ifdef HOLDFAST_FAILPOINTS
    tcase_add_loop_test_raise_signal(tc, a_misfit_stops_test_builds, SIGABRT, 0, ARRAY_LEN(broken_how));
#else
    tcase_add_loop_test(tc, a_misfit_is_told, 0, ARRAY_LEN(broken_how));
#endif
    tcase_add_test(tc, table_and_description_must_agree);
}

int main(void) { return service_main("varlink_service", add_tests); }
