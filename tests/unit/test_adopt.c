/* Who may be believed to be a VM's shim: a manager of its own against shims that say all kinds of things. */
#include <signal.h>
#include <sys/wait.h>

#include "lib/base/clock.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/pidref.h"
#include "lib/base/socket.h"
#include "lib/manager/manager.h"
#include "lib/varlink/client.h"
#include "lib/varlink/service.h"
#include "proto/interfaces.h"
#include "proto/launch.h"
#include "tests/unit/fixture.h"

/* What the fake shim says of itself; 0 and NULL: the truth. */
struct lie {
    const char *name, *boot_id, *state;
    int pid_off, start_off;
    bool mute, refuse;
    const char *expected; /* the state the manager shows */
};

static const struct lie lies[] = {
    { .expected = "running" },
    { .state = "paused", .expected = "paused" },
    { .state = "a state of tomorrow", .expected = "unknown" },
    { .name = "other", .expected = "unknown" },
    { .boot_id = "00000000-0000-0000-0000-000000000000", .expected = "unknown" },
    { .pid_off = 1, .expected = "unknown" },
    { .start_off = 1, .expected = "unknown" },
    { .refuse = true, .expected = "unknown" },
    { .mute = true, .expected = "unresponsive" },
};

static pid_t children[2];

/* ---- the fake shim ---- */

static json_t *status_of(const struct lie *lie)
{
    char boot_id[BOOT_ID_LEN + 1], since[CLOCK_TEXT_MAX];
    uint64_t start_time = 0;

    ck_assert_int_eq(boot_id_read(boot_id), 0);
    ck_assert_int_eq(proc_start_time(getpid(), &start_time), 0);
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:s, s:{s:i, s:I}, s:s, s:s, s:i}", "name", lie->name ? lie->name : "web",
                     "incarnation", 3, "state", lie->state ? lie->state : "running", "since", clock_format(clock_real_us(), since),
                     "health", "none", "restarts", 0, "uptime_ms", 1000, "boot_id", lie->boot_id ? lie->boot_id : boot_id, "shim", "pid",
                     (int)getpid() + lie->pid_off, "start_time", (json_int_t)start_time + lie->start_off, "plan_digest", "0123456789abcdef",
                     "version", "0", "event_seq", 0);
}

static void refuse(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    varlink_call_error_consume(call, "io.holdfast.Shim.Failed", json_pack("{s:s, s:s}", "id", "test", "reason", "not in this test"));
}

static void monitor(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const struct lie *lie = userdata;

    if (lie->refuse)
        refuse(call, parameters, userdata);
    else if (!lie->mute)
        varlink_call_continue_consume(call, json_pack("{s:o}", "status", status_of(lie)));
}

enum { METHODS_MAX = 64 };

struct table {
    struct varlink_method methods[METHODS_MAX];
    size_t n;
};

/* Whatever methods there are, only one is of interest here. */
static void add_method(void *arg, const char *method)
{
    struct table *table = arg;

    char *name = strdup(method); /* lives as long as this process */

    ck_assert_uint_lt(table->n, METHODS_MAX);
    table->methods[table->n++] = (struct varlink_method){ .name = name, .run = streq(method, "Monitor") ? monitor : refuse };
}

/* Holds the lock and listens, then says so by one byte. */
static _Noreturn void be_shim(const struct lie *lie, int ready_fd)
{
    const struct varlink_service_config config = { .vendor = "t", .product = "t", .version = "0", .url = "t", .group = (gid_t)-1 };
    int dir = openat(fixture.dir, "run/vms/web", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct varlink_interface *interface = NULL;
    struct varlink_service *service = NULL;
    struct loop *loop = NULL;
    struct table table = { 0 };

    if (varlink_interface_parse(shim_interface_text, &interface, NULL) < 0)
        _exit(1);
    varlink_interface_methods(interface, add_method, &table);
    if (lock_take(dir, FILE_SHIM_LOCK) < 0 || loop_new(&loop) < 0 || varlink_service_new(loop, &config, &service) < 0 ||
        varlink_service_add(service, interface, table.methods, table.n, (void *)(uintptr_t)lie, NULL) < 0 ||
        varlink_service_listen_take(service, socket_listen(dir, FILE_SHIM_SOCKET, 0600, 8)) < 0 || write(ready_fd, "R", 1) != 1)
        _exit(1);
    loop_run(loop);
    _exit(0);
}

/* ---- the manager ---- */

static _Noreturn void be_manager(void)
{
    char run[96], state[96], log[96], config[96];
    const struct dirs dirs = { run, state, log, config };
    struct manager *m = NULL;

    snprintf(run, sizeof(run), "%s/run", fixture.path);
    snprintf(state, sizeof(state), "%s/state", fixture.path);
    snprintf(log, sizeof(log), "%s/log", fixture.path);
    snprintf(config, sizeof(config), "%s/config", fixture.path);
    log_open("test", LOG_LEVEL_ERROR);
    if (manager_new(&(struct manager_options){ .dirs = &dirs, .shim_path = "/bin/false", .log_level = -1 }, &m, NULL) < 0)
        _exit(1);
    _exit(manager_run(m) < 0);
}

static void setup(void)
{
    fixture_setup();
    ck_assert_int_eq(mkdirat(fixture.dir, "run", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "run/vms", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "run/vms/web", 0700), 0);
}

static void teardown(void)
{
    for (size_t i = 0; i < ARRAY_LEN(children); i++) {
        if (children[i] > 0) {
            kill(children[i], SIGKILL);
            waitpid(children[i], NULL, 0);
        }
    }
    fixture_teardown();
}

static void start_both(const struct lie *lie)
{
    int pipe_fds[2];
    char ready;

    ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
    children[0] = fork();
    ck_assert_int_ge(children[0], 0);
    if (children[0] == 0)
        be_shim(lie, pipe_fds[1]);
    fd_close(pipe_fds[1]);
    fixture_await(pipe_fds[0], POLLIN);
    ck_assert_int_eq(read(pipe_fds[0], &ready, 1), 1);
    fd_close(pipe_fds[0]);
    children[1] = fork();
    ck_assert_int_ge(children[1], 0);
    if (children[1] == 0)
        be_manager();
}

/* The VM as the manager shows it, NULL while no manager answers. */
static json_t *look(void)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *reply = NULL;
    char path[128];

    snprintf(path, sizeof(path), "%s/run/%s", fixture.path, FILE_MANAGER_SOCKET);
    if (varlink_client_connect(path, &client, NULL) < 0 ||
        varlink_client_call_consume(client, "io.holdfast.Manager.Get", json_pack("{s:s}", "name", "web"), FIXTURE_DEADLINE_MS, &reply,
                                    NULL) < 0)
        return NULL;
    return json_incref(json_object_get(reply, "vm"));
}

static void await_state(const char *state)
{
    uint64_t until = clock_mono_us() + (uint64_t)FIXTURE_DEADLINE_MS * 1000;
    const char *shown = NULL;
    json_t *vm = NULL;

    do {
        json_decref(vm);
        vm = look();
        shown = json_string_value(json_object_get(vm, "state"));
        poll(NULL, 0, 5);
    } while (!(shown && streq(shown, state) && (json_is_string(json_object_get(vm, "reason")) || !streq(state, "unknown"))) &&
             clock_mono_us() < until);
    ck_assert_msg(shown && streq(shown, state), "shown as %s, expected %s", shown ? shown : "nothing", state);
    json_decref(vm);
}

/* And whatever it is, nobody is harmed, and a VM that lives with no wish on record is wished to live on. */
START_TEST(believed_or_not)
{
    auto_json json_t *vm = NULL;

    start_both(&lies[_i]);
    await_state(lies[_i].expected);
    ck_assert_int_eq(waitpid(children[0], NULL, WNOHANG), 0);
    ck_assert(fixture_exists("run/vms/web/" FILE_SHIM_SOCKET));
    if (streq(lies[_i].expected, "running")) {
        vm = look();
        ck_assert_str_eq(json_string_value(json_object_get(vm, "wanted")), "running");
        ck_assert_int_eq(json_integer_value(json_object_get(vm, "incarnation")), 3);
        ck_assert_int_eq(json_integer_value(json_object_get(vm, "shim_pid")), children[0]);
    }
}
END_TEST

/* Its death is noticed, and told on disk as what it is. */
START_TEST(death_is_explained)
{
    start_both(&lies[0]);
    await_state("running");
    kill(children[0], SIGKILL);
    waitpid(children[0], NULL, 0);
    children[0] = 0;
    await_state("failed");
    ck_assert(fixture_exists("state/vms/web/" FILE_LAST_EXIT));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adopt");
    TCase *tc = tcase_create("adopt");
    SRunner *runner;
    int failed;

    tcase_set_timeout(tc, 60);
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_loop_test(tc, believed_or_not, 0, ARRAY_LEN(lies));
    tcase_add_test(tc, death_is_explained);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
