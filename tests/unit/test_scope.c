/* Moving a VM into its scope, against a systemd made for it: another process on a socket, which answers as it is told to. That a real one
 * does what is asked is shown by tests/systemd. */
#include "lib/manager/scope.h"

#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#include "lib/base/util.h"
#include "tests/unit/loop_test.h"

#define PATH "/org/freedesktop/systemd1"
#define MANAGER "org.freedesktop.systemd1.Manager"
#define JOB PATH "/job/7"

/* How the other side behaves. */
enum manner {
    ANSWERS,       /* makes the scope and says so */
    FAILS,         /* begins a job, and it fails */
    REFUSES,       /* no right to */
    HAS_IT,        /* the scope is there, more processes are taken */
    IS_ENDING,     /* the scope is there and takes none; the second time it can be made */
    SAYS_NOTHING,  /* takes the call, and that is all */
    HANGS_UP,      /* at the call */
    NEVER_SAYS_SO, /* begins a job whose end it doesn't tell */
};

static struct {
    char folder[32], path[48], address[64];
    pid_t server;
    struct loop *loop;
    struct scopes *scopes;
    int fds;
} f;

/* ---- the other side ---- */

/* The properties as one text, "Slice=holdfast.slice PIDs=1,2 …", to be compared with what was expected. */
static void read_properties(sd_bus_message *m, char *text, size_t size)
{
    size_t used = 0;
    const char *name, *contents;

    text[0] = '\0';
    ck_assert_int_gt(sd_bus_message_enter_container(m, 'a', "(sv)"), 0);
    while (sd_bus_message_enter_container(m, 'r', "sv") > 0) {
        ck_assert_int_gt(sd_bus_message_read(m, "s", &name), 0);
        ck_assert_int_gt(sd_bus_message_peek_type(m, NULL, &contents), 0);
        if (streq(contents, "s") || streq(contents, "as")) {
            const char *value = "";

            if (streq(contents, "s"))
                ck_assert_int_gt(sd_bus_message_read(m, "v", "s", &value), 0);
            else
                ck_assert_int_gt(sd_bus_message_read(m, "v", "as", 1, &value), 0);
            used += (size_t)snprintf(text + used, size - used, "%s=%s\n", name, value);
        } else if (streq(contents, "b")) {
            int value = 0;

            ck_assert_int_gt(sd_bus_message_read(m, "v", "b", &value), 0);
            used += (size_t)snprintf(text + used, size - used, "%s=%d\n", name, value);
        } else if (streq(contents, "t")) {
            uint64_t value = 0;

            ck_assert_int_gt(sd_bus_message_read(m, "v", "t", &value), 0);
            used += (size_t)snprintf(text + used, size - used, "%s=%llu\n", name, (unsigned long long)value);
        } else {
            const void *pids = NULL;
            size_t bytes = 0;

            ck_assert_str_eq(contents, "au");
            ck_assert_int_gt(sd_bus_message_enter_container(m, 'v', "au"), 0);
            ck_assert_int_ge(sd_bus_message_read_array(m, 'u', &pids, &bytes), 0);
            ck_assert_int_ge(sd_bus_message_exit_container(m), 0);
            used += (size_t)snprintf(text + used, size - used, "%s=%zu\n", name, bytes / sizeof(uint32_t));
        }
        ck_assert_int_ge(sd_bus_message_exit_container(m), 0);
    }
}

static const char all_properties[] = "Description=Holdfast VM web\n"
                                     "Slice=holdfast.slice\n"
                                     "Delegate=1\n"
                                     "CollectMode=inactive-or-failed\n"
                                     "%sTasksMax=18446744073709551615\n"
                                     "CPUQuotaPerSecUSec=1500000\n"
                                     "CPUWeight=50\n"
                                     "MemoryMax=3221225472\n"
                                     "PIDs=2\n";

static void check_start(sd_bus_message *m)
{
    char text[1024], expected[1024];
    const char *unit, *mode;

    ck_assert_int_gt(sd_bus_message_read(m, "ss", &unit, &mode), 0);
    ck_assert_msg(has_prefix(unit, "holdfast-vm-web:") && strstr(unit, ".scope"), "unit %s", unit);
    ck_assert_str_eq(mode, "fail");
    read_properties(m, text, sizeof(text));
    (void)snprintf(expected, sizeof(expected), all_properties, geteuid() == 0 ? "Before=holdfast-drain.service\n" : "");
    ck_assert_str_eq(text, expected);
}

static void say_done(sd_bus *bus, const char *result)
{
    /* Another's job first: it isn't ours. */
    ck_assert_int_ge(sd_bus_emit_signal(bus, PATH, MANAGER, "JobRemoved", "uoss", 6, PATH "/job/6", "other.scope", "failed"), 0);
    ck_assert_int_ge(sd_bus_emit_signal(bus, PATH, MANAGER, "JobRemoved", "uoss", 7, JOB, "holdfast-vm-web.scope", result), 0);
}

/* Returns false when it is over. */
static bool serve(sd_bus *bus, sd_bus_message *m, enum manner manner, unsigned *starts)
{
    bool start = sd_bus_message_is_method_call(m, MANAGER, "StartTransientUnit") > 0;

    if (!start && sd_bus_message_is_method_call(m, MANAGER, "AttachProcessesToUnit") <= 0)
        return true;
    if (start)
        check_start(m);
    if (manner == HANGS_UP)
        return false;
    if (manner == SAYS_NOTHING)
        return true;
    if (manner == REFUSES)
        return sd_bus_reply_method_errorf(m, SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, "Interactive authentication required.") >= 0;
    if (!start)
        return (manner == IS_ENDING ? sd_bus_reply_method_errorf(m, "org.freedesktop.systemd1.ScopeNotRunning", "Unit is not active.")
                                    : sd_bus_reply_method_return(m, NULL)) >= 0;
    if (manner == HAS_IT || (manner == IS_ENDING && (*starts)++ == 0))
        return sd_bus_reply_method_errorf(m, "org.freedesktop.systemd1.UnitExists", "Unit was already loaded.") >= 0;
    ck_assert_int_ge(sd_bus_reply_method_return(m, "o", JOB), 0);
    if (manner != NEVER_SAYS_SO)
        say_done(bus, manner == FAILS ? "failed" : "done");
    return true;
}

static void run_server(int listener, enum manner manner)
{
    unsigned starts = 0;
    sd_bus *bus = NULL;
    sd_id128_t id;
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_ge(sd_id128_randomize(&id), 0);
    ck_assert_int_ge(sd_bus_new(&bus), 0);
    ck_assert_int_ge(sd_bus_set_fd(bus, fd, fd), 0);
    ck_assert_int_ge(sd_bus_set_server(bus, 1, id), 0);
    ck_assert_int_ge(sd_bus_start(bus), 0);
    for (;;) {
        sd_bus_message *m = NULL;
        int r = sd_bus_process(bus, &m);

        if (r < 0)
            break;
        if (m && !serve(bus, m, manner, &starts))
            break;
        sd_bus_message_unref(m);
        if (r == 0 && sd_bus_wait(bus, UINT64_MAX) < 0)
            break;
    }
    sd_bus_flush(bus);
    sd_bus_close(bus);
    sd_bus_unref(bus);
}

/* ---- ours ---- */

static bool claims;

static bool is_in(pid_t pid, const char *unit) { return claims; }

static void start_server(enum manner manner)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_ge(listener, 0);
    (void)snprintf(address.sun_path, sizeof(address.sun_path), "%s", f.path);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    ck_assert_int_eq(listen(listener, 4), 0);
    f.server = fork();
    ck_assert_int_ge(f.server, 0);
    if (f.server == 0) {
        ck_assert(signal(SIGTERM, SIG_DFL) != SIG_ERR); /* check's own ends its whole group */
        run_server(listener, manner);
        _exit(0);
    }
    (void)close(listener);
}

static void set_up(void)
{
    struct scopes_config config = { .run_dir = "/tmp/run", .is_in = is_in };

    f.fds = count_fds();
    claims = false;
    (void)snprintf(f.folder, sizeof(f.folder), "/tmp/scope-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(f.folder));
    (void)snprintf(f.path, sizeof(f.path), "%s/socket", f.folder);
    (void)snprintf(f.address, sizeof(f.address), "unix:path=%s", f.path);
    config.address = f.address;
    ck_assert_int_ge(loop_new(&f.loop), 0);
    ck_assert_int_ge(scopes_new(f.loop, &config, &f.scopes), 0);
}

static void tear_down(void)
{
    scopes_free(f.scopes);
    loop_free(f.loop);
    if (f.server > 0) {
        int status = 0;

        (void)kill(f.server, SIGTERM); /* else it has ended by itself, and says what it thought of our calls */
        ck_assert_int_eq(waitpid(f.server, &status, 0), f.server);
        ck_assert_msg(WIFSIGNALED(status) ? WTERMSIG(status) == SIGTERM : WEXITSTATUS(status) == 0, "the other side ended with %d", status);
    }
    (void)unlink(f.path);
    (void)rmdir(f.folder);
    ck_assert_int_eq(count_fds(), f.fds);
}

struct told {
    bool done, failed;
    int code;
    char text[ERR_TEXT_MAX];
};

static void on_done(void *arg, const struct err *err)
{
    struct told *told = arg;

    ck_assert_msg(!told->done, "told twice");
    told->done = true;
    told->failed = err != NULL;
    if (err)
        (void)snprintf(told->text, sizeof(told->text), "%s", err->text);
}

static struct scope_move *begin(struct told *told)
{
    const pid_t pids[] = { getpid(), getppid() };
    const struct limits limits = { .cpu_quota = 150, .cpu_weight = 50, .memory_max = UINT64_C(3) << 30 };
    struct scope_move *move = NULL;
    struct err err = ERR_INIT;
    int r = scope_move(
        f.scopes,
        &(struct scope_request){ .vm = "web", .pids = pids, .n_pids = ARRAY_LEN(pids), .limits = &limits, .done = on_done, .arg = told },
        &move, &err);

    ck_assert_msg(r >= 0, "%s", err.text);
    ck_assert(!told->done);
    return move;
}

START_TEST(made)
{
    struct told told = { 0 };

    start_server(ANSWERS);
    (void)begin(&told);
    claims = true;
    run_until(f.loop, told.done);
    ck_assert_msg(!told.failed, "%s", told.text);
}
END_TEST

START_TEST(joined)
{
    struct told told = { 0 };

    start_server(HAS_IT);
    (void)begin(&told);
    run_until(f.loop, told.done);
    ck_assert(told.failed); /* systemd says so, the kernel doesn't */
    ck_assert_ptr_nonnull(strstr(told.text, "is not in it"));
    told = (struct told){ 0 };
    (void)begin(&told);
    claims = true;
    run_until(f.loop, told.done);
    ck_assert_msg(!told.failed, "%s", told.text);
}
END_TEST

START_TEST(waits_for_an_ending_one)
{
    struct told told = { 0 };

    start_server(IS_ENDING);
    (void)begin(&told);
    claims = false;
    run_until(f.loop, told.done);
    ck_assert_ptr_nonnull(strstr(told.text, "is not in it")); /* it came to the job's end the second time */
}
END_TEST

static const struct {
    enum manner manner;
    const char *text;
} failures[] = {
    { FAILS, "systemd could not make it: failed" },
    { REFUSES, "systemd refuses it: Interactive authentication required." },
    { SAYS_NOTHING, "" },
    { NEVER_SAYS_SO, "systemd has not made it in time: no answer" },
    { HANGS_UP, "" },
};

START_TEST(fails)
{
    struct told told = { 0 };

    start_server(failures[_i].manner);
    (void)begin(&told);
    run_until(f.loop, told.done);
    ck_assert(told.failed);
    ck_assert_msg(strstr(told.text, failures[_i].text), "%s", told.text);
}
END_TEST

START_TEST(nobody_there)
{
    const pid_t pid = getpid();
    struct told told = { 0 };
    struct scope_move *move = NULL;
    struct err err = ERR_INIT;
    const struct scope_request what = { .vm = "web", .pids = &pid, .n_pids = 1, .done = on_done, .arg = &told };

    ck_assert_int_lt(scope_move(f.scopes, &what, &move, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "D-Bus"));
    ck_assert(!told.done);
    /* And then there is. */
    start_server(ANSWERS);
    (void)begin(&told);
    claims = true;
    run_until(f.loop, told.done);
    ck_assert(!told.failed);
}
END_TEST

START_TEST(called_off)
{
    struct told told = { 0 }, second = { 0 };

    start_server(ANSWERS);
    scope_move_cancel(begin(&told));
    (void)begin(&second);
    claims = true;
    run_until(f.loop, second.done);
    ck_assert(!told.done);
}
END_TEST

START_TEST(names)
{
    struct scopes *usual = NULL;
    auto_free char *other = scope_unit(f.scopes, "web"), *unit = NULL;

    ck_assert(has_prefix(other, "holdfast-vm-web:"));
    ck_assert_uint_eq(strlen(other), strlen("holdfast-vm-web:01234567.scope"));
    ck_assert_int_eq(setenv("XDG_RUNTIME_DIR", "/run", 1), 0);
    ck_assert_int_ge(scopes_new(f.loop, &(struct scopes_config){ .run_dir = "/run/holdfast", .is_in = is_in }, &usual), 0);
    unit = scope_unit(usual, "web-1.b_C");
    ck_assert_str_eq(unit, "holdfast-vm-web-1.b_C.scope");
    scopes_free(usual);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scope");
    TCase *tcase = tcase_create("scope");
    SRunner *runner = srunner_create(suite);
    int failed;

    tcase_add_checked_fixture(tcase, set_up, tear_down);
    tcase_set_timeout(tcase, 30);
    tcase_add_test(tcase, made);
    tcase_add_test(tcase, joined);
    tcase_add_test(tcase, waits_for_an_ending_one);
    tcase_add_loop_test(tcase, fails, 0, ARRAY_LEN(failures));
    tcase_add_test(tcase, nobody_there);
    tcase_add_test(tcase, called_off);
    tcase_add_test(tcase, names);
    suite_add_tcase(suite, tcase);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? 1 : 0;
}
