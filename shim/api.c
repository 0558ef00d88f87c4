#include "shim/api.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/interfaces.h"
#include "proto/launch.h"
#include "shim/health.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

#define IFACE "io.holdfast.Shim."

enum { LISTEN_BACKLOG = 128, CONNECTIONS_MAX = 64, CONSOLE_BACKLOG = 4096, RING_STEP = 64 * 1024 };

/* Somebody who follows the VM's events, with a "more" call that stays open. */
struct monitor_call {
    struct monitor_call *next;
    struct vm *vm;
    struct varlink_call *call;
    uint64_t sent; /* number of the last event sent */
};

static void reply_error(struct varlink_call *call, const char *error, const char *reason)
{
    varlink_call_error_consume(call, error, json_pack("{ss}", "reason", reason));
}

void api_reply_failed(struct varlink_call *call, const char *id, const char *reason)
{
    varlink_call_error_consume(call, IFACE "Failed", json_pack("{ss ss}", "id", id, "reason", reason));
}

/* ---- looking ---- */

static void get_status(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    varlink_call_reply_consume(call, json_pack("{so}", "status", vm_status_to_wire(userdata)));
}

static void get_plan(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    json_t *plan = NULL;

    if (plan_to_json(&vm->plan, &plan) < 0)
        api_reply_failed(call, "no-memory", "out of memory");
    else
        varlink_call_reply_consume(call, json_pack("{so}", "plan", plan));
}

static void get_health(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    varlink_call_reply_consume(call, health_to_wire(userdata));
}

static void monitor_free(struct monitor_call *m)
{
    struct monitor_call **p = &m->vm->monitors;

    while (*p != m)
        p = &(*p)->next;
    *p = m->next;
    free(m);
}

static void on_monitor_gone(void *arg) { monitor_free(arg); }

/* One reply of the stream. Without memory for it the call is ended: a watcher may come again, but mustn't take less for the whole. */
static bool monitor_send_consume(struct monitor_call *m, json_t *reply)
{
    if (reply)
        return varlink_call_continue_consume(m->call, reply) >= 0;
    api_reply_failed(m->call, "no-memory", "out of memory");
    monitor_free(m);
    return false;
}

/* Sends what the ring has beyond what was sent; a gap is told first. */
static void monitor_feed(struct monitor_call *m)
{
    const struct event_ring *ring = &m->vm->events;
    const struct event *e;

    if (m->sent + 1 < ring->first_seq) {
        uint64_t lost = ring->first_seq - 1 - m->sent;

        m->sent = ring->first_seq - 1;
        if (!monitor_send_consume(m, json_pack("{s{sI sI}}", "gap", "lost", (json_int_t)lost, "next", (json_int_t)ring->first_seq)))
            return;
    }
    while ((e = event_ring_after(ring, m->sent))) {
        m->sent = e->seq;
        if (!monitor_send_consume(m, json_pack("{so so}", "event", event_to_wire(e), "status", vm_status_to_wire(m->vm))))
            return;
    }
}

static void monitor(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    const json_t *since = json_object_get(parameters, "since");
    struct monitor_call *m = calloc(1, sizeof(*m));
    uint64_t newest = vm->events.next_seq - 1;

    if (!m) {
        api_reply_failed(call, "no-memory", "out of memory");
        return;
    }
    *m = (struct monitor_call){ .next = vm->monitors, .vm = vm, .call = call, .sent = newest };
    /* A number from the future is somebody else's count: nothing to replay. */
    if (json_is_integer(since) && json_integer_value(since) >= 0 && (uint64_t)json_integer_value(since) < newest)
        m->sent = (uint64_t)json_integer_value(since);
    vm->monitors = m;
    varlink_call_on_gone(call, on_monitor_gone, m);
    if (monitor_send_consume(m, json_pack("{so}", "status", vm_status_to_wire(vm))))
        monitor_feed(m);
}

void vm_api_event(struct vm *vm)
{
    for (struct monitor_call *m = vm->monitors, *next; m; m = next) {
        next = m->next;
        monitor_feed(m);
    }
}

bool vm_api_unsent(const struct vm *vm)
{
    for (const struct monitor_call *m = vm->monitors; m; m = m->next)
        if (varlink_call_queued(m->call) > 0)
            return true;
    return false;
}

/* ---- acting ---- */

/* Whether the caller means the incarnation that runs; if not the call is answered. */
bool api_means_us(const struct vm *vm, struct varlink_call *call, const json_t *parameters)
{
    json_int_t given = json_integer_value(json_object_get(parameters, "incarnation"));
    auto_free char *reason = NULL;

    if (given == (json_int_t)vm->incarnation)
        return true;
    (void)str_format(&reason, "incarnation %lld of %s was meant, but %llu is there", (long long)given, vm->plan.name,
                     (unsigned long long)vm->incarnation);
    varlink_call_error_consume(
        call, IFACE "StaleIncarnation",
        json_pack("{sI sI ss}", "current", (json_int_t)vm->incarnation, "given", given, "reason", reason ? reason : "stale incarnation"));
    return false;
}

static void reply_wrong_state(struct varlink_call *call, const struct vm *vm, const char *verb)
{
    const char *state = enum_to_string(&vm_state_names, (int)vm->state);
    auto_free char *reason = NULL;

    (void)str_format(&reason, "%s is %s, so it can't be %s", vm->plan.name, state, verb);
    varlink_call_error_consume(call, IFACE "WrongState", json_pack("{ss ss}", "state", state, "reason", reason ? reason : "wrong state"));
}

static void stop(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    bool force = json_is_true(json_object_get(parameters, "force"));
    json_int_t timeout_ms = json_integer_value(json_object_get(parameters, "timeout_ms"));

    if (!api_means_us(vm, call, parameters))
        return;
    varlink_call_reply_consume(call, NULL);
    if (timeout_ms > 0)
        vm->stop.timeout_ms = (uint64_t)timeout_ms;
    vm->stop.asked = true;
    vm_handle(vm, VM_STOP, force ? "forced" : NULL);
    if (force && vm->state == STATE_STOPPING && vm->qemu.ref.pid != 0)
        vm_ladder_force(vm);
}

static bool signal_is_deadly(int sig)
{
    static const int deadly[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGKILL, SIGSEGV, SIGTERM };

    for (size_t i = 0; i < ARRAY_LEN(deadly); i++)
        if (deadly[i] == sig)
            return true;
    return false;
}

static void kill_vm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    const json_t *given = json_object_get(parameters, "signal");
    json_int_t sig = json_is_integer(given) ? json_integer_value(given) : SIGKILL;
    int r;

    if (!api_means_us(vm, call, parameters))
        return;
    if (sig < 1 || sig > SIGRTMAX) {
        api_reply_failed(call, "bad-signal", "a signal is a number from 1 to 64");
        return;
    }
    if (vm->qemu.ref.pid == 0 && vm->state != STATE_PREPARING && vm->state != STATE_BACKOFF) {
        varlink_call_reply_consume(call, NULL); /* what is gone needs no killing */
        return;
    }
    if (signal_is_deadly((int)sig)) {
        vm->stop.asked = vm->stop.deadly = true;
        if (vm->qemu.ref.pid == 0)
            vm_handle(vm, VM_STOP, "killed");
    }
    r = vm->qemu.ref.pid ? vm_signal(vm, (int)sig) : 0;
    if (r < 0 && r != -ESRCH)
        api_reply_failed(call, "no-signal", strerror(-r));
    else
        varlink_call_reply_consume(call, NULL);
}

/* ---- through QEMU ---- */

static void reply_qmp_failure(struct varlink_call *call, const struct qmp_result *r)
{
    if (r->failure == -EREMOTEIO)
        varlink_call_error_consume(call, IFACE "QmpFailed", json_pack("{ss ss}", "class", r->class, "reason", r->text));
    else if (r->failure == -ETIMEDOUT)
        reply_error(call, IFACE "TimedOut", r->text);
    else
        api_reply_failed(call, "no-monitor", r->text);
}

/* A call whose answer is QEMU's. The caller may go away meanwhile. */
struct relay {
    struct varlink_call *call; /* NULL: gone */
    bool with_result;
};

static void on_relay_gone(void *arg)
{
    struct relay *relay = arg;

    relay->call = NULL;
}

static void on_relay_done(void *arg, const struct qmp_result *r)
{
    struct relay *relay = arg;

    if (relay->call) {
        varlink_call_on_gone(relay->call, NULL, NULL);
        if (r->failure != 0)
            reply_qmp_failure(relay->call, r);
        else
            varlink_call_reply_consume(relay->call, relay->with_result ? json_pack("{sO}", "result", r->reply) : NULL);
    }
    free(relay);
}

static void relay_qmp(struct vm *vm, struct varlink_call *call, const char *command, const json_t *arguments, bool with_result)
{
    struct relay *relay = calloc(1, sizeof(*relay));
    int r;

    if (!relay) {
        api_reply_failed(call, "no-memory", "out of memory");
        return;
    }
    *relay = (struct relay){ call, with_result };
    r = vm->qemu.qmp_ready ? qmp_client_call(vm->qemu.qmp, command, arguments, QMP_TIMEOUT_MS, on_relay_done, relay) : -ENOTCONN;
    if (r < 0) {
        free(relay);
        api_reply_failed(call, "no-monitor", r == -ENOTCONN ? "QEMU's monitor isn't there (yet)" : strerror(-r));
        return;
    }
    varlink_call_on_gone(call, on_relay_gone, relay);
}

/* Behind a snapshot's back it would not stand still as long as it has to, or be let run although it was paused. */
static bool stands_still(struct varlink_call *call, const struct vm *vm)
{
    auto_free char *reason = NULL;

    if (!snapshot_will_hold(vm))
        return false;
    (void)str_format(&reason, "%s stands still for a snapshot that is being made: try again when it is done", vm->plan.name);
    varlink_call_error_consume(call, IFACE "WrongState",
                               json_pack("{ss ss}", "state", enum_to_string(&vm_state_names, (int)vm->state), "reason",
                                         reason ? reason : "a snapshot is being made"));
    return true;
}

static void pause_vm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;

    if (!api_means_us(vm, call, parameters))
        return;
    if (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED)
        reply_wrong_state(call, vm, "paused");
    else if (!stands_still(call, vm))
        relay_qmp(vm, call, "stop", NULL, false);
}

static void resume_vm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;

    if (!api_means_us(vm, call, parameters))
        return;
    if (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED)
        reply_wrong_state(call, vm, "resumed");
    else if (!stands_still(call, vm))
        relay_qmp(vm, call, "cont", NULL, false);
}

static void reset_vm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;

    if (!api_means_us(vm, call, parameters))
        return;
    if (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED)
        reply_wrong_state(call, vm, "reset");
    else if (!stands_still(call, vm))
        relay_qmp(vm, call, "system_reset", NULL, false);
}

static void qmp(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    if (json_is_integer(json_object_get(parameters, "incarnation")) && !api_means_us(userdata, call, parameters))
        return;
    relay_qmp(userdata, call, json_string_value(json_object_get(parameters, "command")), json_object_get(parameters, "arguments"), true);
}

/* ---- the console ---- */

struct attach {
    struct vm *vm;
    uint64_t backlog;
};

static void on_console_upgraded(void *arg, int fd, char *rest, size_t rest_len)
{
    struct attach *a = arg;

    vm_console_attach_take(a->vm, fd, rest, rest_len, a->backlog);
    free(a);
}

/* A QEMU that was started by other means (foreign.h) has its console elsewhere, if it has one. */
static bool has_console(const struct vm *vm)
{
    return vm->qemu.child || !vm->qemu.ref.pid || faccessat(vm->run_fd, FILE_CONSOLE_SOCKET, F_OK, AT_SYMLINK_NOFOLLOW) == 0 ||
           faccessat(vm->log_fd, FILE_CONSOLE_LOG, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static void console(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    const json_t *backlog = json_object_get(parameters, "backlog");
    struct attach *a;

    if (!has_console(vm)) {
        api_reply_failed(call, "no-console", "QEMU was started by other means: its console isn't to be had before its next start");
        return;
    }
    a = calloc(1, sizeof(*a));
    if (!a) {
        api_reply_failed(call, "no-memory", "out of memory");
        return;
    }
    a->vm = vm;
    a->backlog = json_is_integer(backlog) && json_integer_value(backlog) >= 0 ? (uint64_t)json_integer_value(backlog) : CONSOLE_BACKLOG;
    if (varlink_call_upgrade_consume(call, json_pack("{sI}", "incarnation", (json_int_t)vm->incarnation), on_console_upgraded, a) < 0)
        free(a);
}

static const struct varlink_method methods[] = {
    { .name = "GetStatus", .run = get_status },
    { .name = "GetPlan", .run = get_plan },
    { .name = "GetHealth", .run = get_health },
    { .name = "Monitor", .run = monitor, .more = true },
    { .name = "Stop", .run = stop },
    { .name = "Kill", .run = kill_vm },
    { .name = "Pause", .run = pause_vm },
    { .name = "Resume", .run = resume_vm },
    { .name = "Reset", .run = reset_vm },
    { .name = "Update", .run = api_update },
    { .name = "Qmp", .run = qmp },
    { .name = "Console", .run = console, .upgrade = true },
    { .name = "GetMemory", .run = api_get_memory },
    { .name = "Snapshot", .run = api_snapshot, .more = true },
    { .name = "CancelSnapshot", .run = api_cancel_snapshot },
};

int vm_serve(struct vm *vm, struct err *err)
{
    const struct varlink_service_config config = {
        .vendor = "Holdfast",
        .product = "holdfast-shim",
        .version = HOLDFAST_VERSION,
        .url = "https://varlink.org",
        .group = (gid_t)-1,
        .connections_max = CONNECTIONS_MAX,
    };
    int fd, r;

    r = varlink_interface_parse(shim_interface_text, &vm->interface, err);
    if (r < 0)
        return r;
    r = varlink_service_new(vm->loop, &config, &vm->service);
    if (r < 0)
        return err_set_errno(err, -r, "no-service", "can't make the shim's service");
    r = varlink_service_add(vm->service, vm->interface, methods, ARRAY_LEN(methods), vm, err);
    if (r < 0)
        return r;
    fd = socket_listen(vm->run_fd, FILE_SHIM_SOCKET, 0660, LISTEN_BACKLOG);
    if (fd < 0)
        return err_set_errno(err, -fd, "no-socket", "can't listen on %s/%s", vm->plan.run_dir, FILE_SHIM_SOCKET);
    r = varlink_service_listen_take(vm->service, fd);
    if (r < 0) {
        fd_close(fd);
        return err_set_errno(err, -r, "no-service", "can't serve %s/%s", vm->plan.run_dir, FILE_SHIM_SOCKET);
    }
    return 0;
}

void vm_api_clear(struct vm *vm)
{
    varlink_service_free(steal_ptr(&vm->service));
    varlink_interface_free(steal_ptr(&vm->interface));
    while (vm->monitors)
        monitor_free(vm->monitors);
}
