#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/socket.h"
#include "lib/varlink/client.h"
#include "lib/varlink/service.h"
#include "tests/unit/loop_test.h"

static const char interface_text[] = "interface org.example.test\n"
                                     "method Echo(text: string) -> (text: string)\n"
                                     "method Large(size: int) -> (text: string)\n"
                                     "method Never() -> ()\n"
                                     "method Count(to: int) -> (n: int)\n"
                                     "method Raw() -> ()\n"
                                     "error Sorry (reason: string)\n"
                                     "error Plain (name: string)\n";

static struct fixture {
    char dir[32], path[48];
    int dirfd;
    pid_t service;
    struct varlink_client *client;
    struct err err;
} f;
static int fds_before;

/* ---- the service, in a process of its own ---- */

static void echo(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *text = json_string_value(json_object_get(parameters, "text"));

    if (streq(text, "sorry"))
        varlink_call_error_reason_consume(call, "org.example.test.Sorry", NULL, "because");
    else if (streq(text, "plain"))
        varlink_call_error_consume(call, "org.example.test.Plain", json_pack("{s:s}", "name", "x"));
    else
        varlink_call_reply_consume(call, json_pack("{s:s}", "text", text));
}

static void large(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    size_t size = (size_t)json_integer_value(json_object_get(parameters, "size"));
    char *text = calloc(1, size + 1);

    memset(text, 'x', size);
    varlink_call_reply_consume(call, json_pack("{s:s}", "text", text));
    free(text);
}

static void never(struct varlink_call *call, const json_t *parameters, void *userdata) {}

static void count(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    int to = (int)json_integer_value(json_object_get(parameters, "to"));

    for (int n = 1; n < (to ? to : 3); n++)
        varlink_call_continue_consume(call, json_pack("{s:i}", "n", n));
    if (to)
        varlink_call_reply_consume(call, json_pack("{s:i}", "n", to));
}

static void upgraded(void *arg, int fd, char *rest, size_t rest_len)
{
    if (fd >= 0 && fd_set_nonblock(fd, false) == 0) {
        char buf[16];
        ssize_t n;

        fd_write_all(fd, "welcome ", 8);
        n = read(fd, buf, sizeof(buf));
        if (n > 0)
            fd_write_all(fd, buf, (size_t)n);
    }
    free(rest);
    fd_close(fd);
}

static void raw(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    varlink_call_upgrade_consume(call, NULL, upgraded, NULL);
}

static const struct varlink_method methods[] = {
    { .name = "Echo", .run = echo },
    { .name = "Large", .run = large },
    { .name = "Never", .run = never },
    { .name = "Count", .run = count, .more = true },
    { .name = "Raw", .run = raw, .upgrade = true },
};

static int serve(int listen_fd)
{
    struct varlink_interface *interface = NULL;
    struct varlink_service *service = NULL;
    struct loop *loop = NULL;

    if (loop_new(&loop) < 0 || varlink_interface_parse(interface_text, &interface, NULL) < 0 ||
        varlink_service_new(loop, &(struct varlink_service_config){ .group = (gid_t)-1 }, &service) < 0 ||
        varlink_service_add(service, interface, methods, ARRAY_LEN(methods), NULL, NULL) < 0 ||
        varlink_service_listen_take(service, listen_fd) < 0)
        return 1;
    return loop_run(loop);
}

/* A service that answers the first message with `len` bytes of `text` and goes. */
static void serve_text(int listen_fd, const char *text, size_t len)
{
    char c = 'x';
    int fd = -1;

    fd_set_nonblock(listen_fd, false);
    fd = accept(listen_fd, NULL, NULL);
    while (fd >= 0 && read(fd, &c, 1) == 1 && c != '\0')
        ;
    if (fd >= 0)
        fd_write_all(fd, text, len);
    _exit(0);
}

static void setup_folder(void)
{
    fds_before = count_fds();
    f = (struct fixture){ .dir = "/tmp/holdfast-test-XXXXXX", .dirfd = -1 };
    ck_assert_ptr_nonnull(mkdtemp(f.dir));
    snprintf(f.path, sizeof(f.path), "%s/sock", f.dir);
    f.dirfd = open(f.dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ck_assert_int_ge(f.dirfd, 0);
}

/* text NULL: the real service. The socket listens before we go on, so there is nothing to wait for. */
static void start(const char *text, size_t len)
{
    int fd = socket_listen(f.dirfd, "sock", 0600, 8);

    ck_assert_int_ge(fd, 0);
    f.service = fork();
    ck_assert_int_ge(f.service, 0);
    if (f.service == 0) {
        if (text)
            serve_text(fd, text, len);
        _exit(serve(fd));
    }
    fd_close(fd);
    ck_assert_msg(varlink_client_connect(f.path, &f.client, &f.err) == 0, "%s", f.err.text);
}

static void setup(void)
{
    setup_folder();
    start(NULL, 0);
}

static void teardown(void)
{
    varlink_client_free(f.client);
    if (f.service > 0) {
        kill(f.service, SIGKILL);
        ck_assert_int_eq(waitpid(f.service, NULL, 0), f.service);
    }
    fd_close(f.dirfd);
    ck_assert_int_eq(dir_remove_tree(AT_FDCWD, f.dir), 0);
    ck_assert_int_eq(count_fds(), fds_before);
}

static int call_echo(const char *text, json_t **ret)
{
    return varlink_client_call_consume(f.client, "org.example.test.Echo", json_pack("{s:s}", "text", text), 10000, ret, &f.err);
}

static void expect_echo(void)
{
    json_t *p = NULL;

    ck_assert_msg(call_echo("hi", &p) == 0, "%s", f.err.text);
    ck_assert_str_eq(json_string_value(json_object_get(p, "text")), "hi");
    ck_assert_str_eq(varlink_client_error(f.client), "");
    json_decref(p);
}

START_TEST(calls)
{
    expect_echo();
    expect_echo();
    ck_assert_int_eq(call_echo("hi", NULL), 0);
    ck_assert_int_ge(varlink_client_fd(f.client), 0);
    ck_assert(!varlink_client_pending(f.client));
}
END_TEST

START_TEST(errors_have_a_text)
{
    json_t *p = NULL;

    ck_assert_int_eq(call_echo("sorry", &p), -EREMOTEIO);
    ck_assert_str_eq(varlink_client_error(f.client), "org.example.test.Sorry");
    ck_assert_str_eq(f.err.id, "org.example.test.Sorry");
    ck_assert_str_eq(f.err.text, "because");
    ck_assert_str_eq(json_string_value(json_object_get(p, "reason")), "because");
    json_decref(p);
    p = NULL;
    ck_assert_int_eq(call_echo("plain", NULL), -EREMOTEIO);
    ck_assert_str_eq(f.err.text, "org.example.test.Plain (name: x)");
    ck_assert_int_eq(varlink_client_call_consume(f.client, "org.example.test.Nope", NULL, 10000, NULL, &f.err), -EREMOTEIO);
    ck_assert_str_eq(varlink_client_error(f.client), "org.varlink.service.MethodNotFound");
    expect_echo();
}
END_TEST

START_TEST(large_replies)
{
    static const int sizes[] = { 1, 4095, 4096, 100 * 1000, 3 * 1024 * 1024 };

    for (size_t n = 0; n < ARRAY_LEN(sizes); n++) {
        json_t *p = NULL;

        ck_assert_msg(
            varlink_client_call_consume(f.client, "org.example.test.Large", json_pack("{s:i}", "size", sizes[n]), 20000, &p, &f.err) == 0,
            "%s", f.err.text);
        ck_assert_uint_eq(json_string_length(json_object_get(p, "text")), (size_t)sizes[n]);
        json_decref(p);
    }
    expect_echo();
}
END_TEST

START_TEST(timeout)
{
    json_t *p = NULL;

    ck_assert_int_eq(varlink_client_call_consume(f.client, "org.example.test.Never", NULL, 30, &p, &f.err), -ETIMEDOUT);
    ck_assert_str_eq(f.err.text, "no answer in time");
    ck_assert_ptr_null(p);
    ck_assert_int_eq(call_echo("hi", &p), -ENOTCONN);
}
END_TEST

START_TEST(a_stream_of_replies)
{
    json_t *p = NULL;

    ck_assert_int_eq(varlink_client_next(f.client, 0, &p, &f.err), -ENOTCONN);
    ck_assert_int_eq(varlink_client_more_consume(f.client, "org.example.test.Count", json_pack("{s:i}", "to", 3), &f.err), 0);
    for (int n = 1; n <= 3; n++) {
        ck_assert_int_eq(varlink_client_next(f.client, 10000, &p, &f.err), n < 3);
        ck_assert_int_eq(json_integer_value(json_object_get(p, "n")), n);
        json_decref(p);
    }
    expect_echo();
}
END_TEST

START_TEST(a_stream_survives_an_impatient_next)
{
    json_t *p = NULL;

    ck_assert_int_eq(varlink_client_more_consume(f.client, "org.example.test.Count", json_pack("{s:i}", "to", 0), &f.err), 0);
    for (int n = 1; n <= 2; n++) {
        ck_assert_int_eq(varlink_client_next(f.client, 10000, &p, &f.err), 1);
        json_decref(p);
    }
    p = NULL;
    ck_assert_int_eq(varlink_client_next(f.client, 1, &p, &f.err), -ETIMEDOUT);
    ck_assert_int_eq(varlink_client_next(f.client, 1, &p, &f.err), -ETIMEDOUT);
    ck_assert_ptr_null(p);
    ck_assert_int_eq(call_echo("hi", &p), -ENOTCONN); /* one call at a time */
}
END_TEST

START_TEST(upgrade)
{
    char buf[32], *rest = NULL;
    size_t rest_len = 0, got;
    int fd = -1;

    ck_assert_int_eq(varlink_client_upgrade_consume(f.client, "org.example.test.Echo", json_pack("{s:s}", "text", "x"), 10000, &fd, &rest,
                                                    &rest_len, &f.err),
                     -EREMOTEIO);
    ck_assert_int_eq(varlink_client_upgrade_consume(f.client, "org.example.test.Raw", NULL, 10000, &fd, &rest, &rest_len, &f.err), 0);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fd_set_nonblock(fd, false), 0);
    ck_assert_int_eq(fd_write_all(fd, "ping", 4), 0);
    if (rest_len > 0)
        memcpy(buf, rest, rest_len);
    got = rest_len;
    for (ssize_t n = 1; n > 0 && got < 12; got += (size_t)n) {
        n = read(fd, buf + got, sizeof(buf) - got);
        ck_assert_int_gt(n, 0);
    }
    ck_assert_int_eq(memcmp(buf, "welcome ping", 12), 0);
    ck_assert_int_eq(call_echo("hi", NULL), -ENOTCONN);
    free(rest);
    fd_close(fd);
}
END_TEST

static const struct {
    const char *text;
    size_t len;
    int error;
} odd[] = {
    { "", 0, -ECONNRESET },
    { "{\"parameters\":", 14, -ECONNRESET },
    { "garbage", 8, -EPROTO },
    { "[]", 3, -EPROTO },
    { "{\"continues\":true}", 19, -EPROTO },
    { "{\"error\":\"org.varlink.service.PermissionDenied\"}", 49, -EREMOTEIO },
};

START_TEST(odd_services)
{
    start(odd[_i].text, odd[_i].len);
    ck_assert_int_eq(call_echo("hi", NULL), odd[_i].error);
    ck_assert(err_is_set(&f.err));
}
END_TEST

START_TEST(nobody_there)
{
    int fd;

    ck_assert_int_eq(varlink_client_connect(f.path, &f.client, &f.err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(f.err.text, f.path));
    fd = socket_listen(f.dirfd, "sock", 0600, 8);
    fd_close(fd);
    ck_assert_int_eq(varlink_client_connect(f.path, &f.client, &f.err), -ECONNREFUSED);
    varlink_client_free(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("varlink_client");
    TCase *tc = tcase_create("client"), *alone = tcase_create("alone");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, calls);
    tcase_add_test(tc, errors_have_a_text);
    tcase_add_test(tc, large_replies);
    tcase_add_test(tc, timeout);
    tcase_add_test(tc, a_stream_of_replies);
    tcase_add_test(tc, a_stream_survives_an_impatient_next);
    tcase_add_test(tc, upgrade);
    suite_add_tcase(suite, tc);
    tcase_add_checked_fixture(alone, setup_folder, teardown);
    tcase_add_loop_test(alone, odd_services, 0, ARRAY_LEN(odd));
    tcase_add_test(alone, nobody_there);
    suite_add_tcase(suite, alone);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
