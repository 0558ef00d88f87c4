#include "tests/unit/service_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"
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
struct service_fixture f;
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
        f.last_result = varlink_call_error_consume(call, "org.example.test.Sorry", json_object());
}

static void whoami(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const struct socket_peer *peer = varlink_call_peer(call);

    varlink_call_reply_consume(call, json_pack("{s:i, s:i}", "uid", (int)peer->uid, "pid", (int)peer->pid));
}

const struct varlink_method service_methods[SERVICE_METHODS] = {
    { .name = "Echo", .run = echo },
    { .name = "Later", .run = later },
    { .name = "Count", .run = count, .more = true },
    { .name = "Flood", .run = flood, .more = true },
    { .name = "Raw", .run = raw, .upgrade = true },
    { .name = "Broken", .run = broken },
    { .name = "Whoami", .run = whoami },
};

void service_start(const struct varlink_service_config *extra)
{
    struct varlink_service_config config = *extra;
    struct err err = ERR_INIT;
    int fd;

    config.vendor = "Example";
    config.product = "Test";
    config.version = "1";
    config.url = "https://example.org";
    ck_assert_int_eq(varlink_service_new(f.loop, &config, &f.service), 0);
    ck_assert_msg(varlink_service_add(f.service, f.interface, service_methods, SERVICE_METHODS, &f, &err) == 0, "%s", err.text);
    fd = socket_listen(f.dirfd, "sock", 0666, 64);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(varlink_service_listen_take(f.service, fd), 0);
}

static void setup(void)
{
    fds_before = count_fds();
    f = (struct service_fixture){ .raw_fd = -1, .dir = "/tmp/holdfast-test-XXXXXX" };
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

int client(void)
{
    int fd = socket_connect(f.dirfd, "sock");

    ck_assert_int_ge(fd, 0);
    return fd;
}

void say(int fd, const char *text)
{
    size_t len = strlen(text) + 1;

    ck_assert_int_eq(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

json_t *hear(int fd)
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

void expect(int fd, const char *wanted)
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

void all_gone(void) { run_until(f.loop, varlink_service_connections(f.service) == 0); }

int service_main(const char *name, void (*add_tests)(TCase *tc))
{
    Suite *suite = suite_create(name);
    TCase *tc = tcase_create(name);
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    add_tests(tc);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
