/* A word with a monitor that behaves as a test wants: a child process that says its lines one by one, each after a line of ours. */
#include "shim/foreign_qmp.h"

#include <sys/socket.h>
#include <sys/wait.h>

#include "lib/base/json.h"
#include "lib/base/socket.h"
#include "tests/unit/fixture.h"

#define GREETING "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \"micro\": 0}}, \"capabilities\": []}}\r\n"
#define NEGOTIATED "{\"return\": {}, \"id\": 1}\r\n"

struct monitor {
    pid_t pid;
    char path[128];
};

/* Reads up to a line end; what came along is put into *ret_fd. */
static void read_line(int fd, int *ret_fd)
{
    for (char c = 0; c != '\n';) {
        int passed = -1;

        fixture_await(fd, POLLIN);
        if (socket_receive_fd(fd, &c, 1, &passed) <= 0)
            _exit(0);
        if (passed >= 0)
            *ret_fd = passed;
    }
}

/* `lines`: NULL-ended; the first is said at once. The last words of a line "FD" stand for: whether a descriptor has come, as JSON. */
static _Noreturn void serve(int listener, const char *const *lines)
{
    int passed = -1, fd;

    fixture_await(listener, POLLIN);
    fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    for (size_t i = 0; lines[i]; i++) {
        const char *line = lines[i];

        if (i > 0)
            read_line(fd, &passed);
        if (streq(line, "FD"))
            line = passed >= 0 && write(passed, "x", 1) == 1 ? "{\"return\": true, \"id\": 2}\n" : "{\"return\": false, \"id\": 2}\n";
        /* Byte by byte: a reader must put lines together. */
        for (; *line; line++)
            if (write(fd, line, 1) != 1)
                _exit(0);
    }
    _exit(0);
}

static struct monitor begin(const char *const *lines)
{
    struct monitor m;
    auto_fd int listener = socket_listen(fixture.dir, "qmp", 0600, 4);

    ck_assert_int_ge(listener, 0);
    snprintf(m.path, sizeof(m.path), "%s/qmp", fixture.path);
    m.pid = fork();
    ck_assert_int_ge(m.pid, 0);
    if (m.pid == 0)
        serve(listener, lines);
    return m;
}

static void end(const struct monitor *m) { ck_assert_int_eq(waitpid(m->pid, NULL, 0), m->pid); }

START_TEST(answers_among_events)
{
    static const char *const lines[] = {
        GREETING, NEGOTIATED,
        "{\"event\": \"RTC_CHANGE\", \"data\": {}, \"timestamp\": {\"seconds\": 1, \"microseconds\": 2}}\n"
        "{\"return\": {\"status\": \"old\"}, \"id\": 1}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}\n",
        "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}, \"id\": 3}\n", NULL
    };
    struct monitor m = begin(lines);
    struct err err = ERR_INIT;
    struct talk *t = NULL;
    json_t *data = NULL;

    ck_assert_int_eq(talk_open(m.path, &t, &err), 0);
    ck_assert_int_eq(talk_call_consume(t, "query-status", NULL, -1, &data, &err), 0);
    ck_assert_str_eq(json_string_value(json_object_get(data, "status")), "running");
    json_decref(data);
    ck_assert_int_eq(talk_call_consume(t, "frobnicate", json_object(), -1, &data, &err), -EREMOTEIO);
    ck_assert_str_eq(err.text, "QEMU refused: no such thing");
    talk_free(t);
    end(&m);
}
END_TEST

START_TEST(a_descriptor_goes_along)
{
    static const char *const lines[] = { GREETING, NEGOTIATED, "FD", NULL };
    struct monitor m = begin(lines);
    struct talk *t = NULL;
    json_t *data = NULL;
    int pipe_fds[2];
    char byte = 0;

    ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
    ck_assert_int_eq(talk_open(m.path, &t, NULL), 0);
    ck_assert_int_eq(talk_call_consume(t, "getfd", json_pack("{s:s}", "fdname", "x"), pipe_fds[1], &data, NULL), 0);
    ck_assert(json_is_true(data));
    ck_assert_int_eq(read(pipe_fds[0], &byte, 1), 1);
    ck_assert_int_eq(fcntl(pipe_fds[1], F_GETFD), FD_CLOEXEC); /* still ours */
    json_decref(data);
    fd_close(pipe_fds[0]);
    fd_close(pipe_fds[1]);
    talk_free(t);
    end(&m);
}
END_TEST

static void assert_no_talk(const char *const *lines, int expected, const char *words)
{
    struct monitor m = begin(lines);
    struct err err = ERR_INIT;
    struct talk *t = NULL;

    ck_assert_int_eq(talk_open(m.path, &t, &err), expected);
    ck_assert_ptr_null(t);
    ck_assert_msg(strstr(err.text, words) != NULL, "%s", err.text);
    end(&m);
}

START_TEST(what_is_no_monitor)
{
    static const char *const hangs_up[] = { "", NULL }, *const html[] = { "HTTP/1.1 400 Bad Request\r\n\r\n", NULL };
    static const char *const no_greeting[] = { NEGOTIATED, NULL }, *const refuses[] = { GREETING,
                                                                                        "{\"error\": {\"class\": \"CommandNotFound\", "
                                                                                        "\"desc\": \"not now\"}, \"id\": 1}\n",
                                                                                        NULL };
    struct err err = ERR_INIT;
    struct talk *t = NULL;

    assert_no_talk(hangs_up, -EPROTO, "is no QMP monitor");
    assert_no_talk(html, -EPROTO, "is no QMP monitor");
    assert_no_talk(no_greeting, -EPROTO, "is no QMP monitor");
    assert_no_talk(refuses, -EREMOTEIO, "QEMU refused: not now");
    ck_assert_int_eq(talk_open("/nowhere/qmp", &t, &err), -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "/nowhere/qmp"));
}
END_TEST

START_TEST(it_ends_in_the_middle)
{
    static const char *const lines[] = { GREETING, NEGOTIATED, "{\"return\": ", NULL };
    struct monitor m = begin(lines);
    struct err err = ERR_INIT;
    struct talk *t = NULL;

    ck_assert_int_eq(talk_open(m.path, &t, &err), 0);
    ck_assert_int_eq(talk_call_consume(t, "query-status", NULL, -1, NULL, &err), -ECONNRESET);
    ck_assert_ptr_nonnull(strstr(err.text, "query-status"));
    talk_free(t);
    end(&m);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, answers_among_events);
    tcase_add_test(tc, a_descriptor_goes_along);
    tcase_add_test(tc, what_is_no_monitor);
    tcase_add_test(tc, it_ends_in_the_middle);
}

int main(void) { return fixture_main("foreign_qmp", add_tests); }
