/* Another plan for a VM that runs, all of it or nothing. The new plan is first written beside the old one, then QEMU is told of other
 * forwards, then a rename makes the new plan the plan: a shim that dies before that leaves plan-next.json, and its replacement takes back
 * whatever QEMU may have been told. From the rename on it is done, whoever dies. */
#include "shim/update.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/strv.h"
#include "proto/launch.h"
#include "shim/api.h"
#include "shim/health.h"
#include "shim/vm.h"

#define IFACE "io.holdfast.Shim."

/* For a monitor that was just connected to greet, as in shim/ladder.c: a shim that has just taken a guest over can't tell it anything yet. */
enum { MONITOR_WAIT_MS = 2000 };

static void begin(struct update *u);

void update_free(struct update *u)
{
    if (!u)
        return;
    plan_clear(&u->plan);
    plan_diff_clear(&u->diff);
    free(u);
}

static void reply_error(struct varlink_call *call, const struct vm *vm, const struct err *err)
{
    if (streq(err->id, "wrong-state"))
        varlink_call_error_consume(call, IFACE "WrongState",
                                   json_pack("{ss ss}", "state", enum_to_string(&vm_state_names, (int)vm->state), "reason", err->text));
    else if (streq(err->id, "restart-needed"))
        varlink_call_error_consume(call, IFACE "RestartNeeded", json_pack("{ss}", "reason", err->text));
    else if (streq(err->id, "timed-out"))
        varlink_call_error_consume(call, IFACE "TimedOut", json_pack("{ss}", "reason", err->text));
    else
        api_reply_failed(call, err->id, err->text);
}

static void on_turn(void *arg) { begin(arg); }

/* Out of the queue; the next one's turn comes. */
static void end(struct update *u)
{
    struct vm *vm = u->vm;

    vm->update = u->next;
    update_free(u);
    if (vm->update)
        loop_defer(vm->loop, &vm->update->turn, on_turn, vm->update);
}

void update_failed(struct update *u)
{
    struct vm *vm = u->vm;

    /* While it isn't known what QEMU has, the record stays for a replacement. */
    if (!u->unsure || vm->qemu.ref.pid == 0 || vm->qemu.gone)
        (void)unlinkat(vm->run_fd, FILE_PLAN_NEXT, 0);
    utf8_clean(u->err.text);
    vm_tell(vm, EVENT_SHIM, NULL, "%s", u->err.text);
    log_vm_warning(vm->plan.name, "%s", u->err.text);
    if (u->call) {
        varlink_call_on_gone(u->call, NULL, NULL);
        reply_error(u->call, vm, &u->err);
    }
    end(u);
}

/* ---- the new plan takes effect ---- */

#define SWAP(a, b)                    \
    do {                              \
        __typeof__(a) swapped_ = (a); \
        (a) = (b);                    \
        (b) = swapped_;               \
    } while (0)

/* Only what may differ: the rest is equal, and others of this program hold pointers into it. */
static void take_plan(struct update *u)
{
    struct vm *vm = u->vm;
    bool health = plan_diff_find(&u->diff, "/health");

    if (health)
        health_clear(vm); /* it goes by the old probes */
    if (health) {
        SWAP(vm->plan.health, u->plan.health);
        SWAP(vm->plan.n_health, u->plan.n_health);
    }
    SWAP(vm->plan.stop, u->plan.stop);
    SWAP(vm->plan.n_stop, u->plan.n_stop);
    SWAP(vm->plan.qemu.argv, u->plan.qemu.argv);
    SWAP(vm->plan.qemu.capabilities, u->plan.qemu.capabilities);
    vm->plan.restart = u->plan.restart;
    vm->plan.logs = u->plan.logs;
    vm->backoff.delay_ms = vm->plan.restart.delay_ms;
    vm->backoff.max_delay_ms = vm->plan.restart.max_delay_ms;
    vm->backoff.max_attempts = vm->plan.restart.max_attempts;
    if (plan_digest(&vm->plan, vm->digest) < 0)
        log_vm_error(vm->plan.name, "out of memory: the plan's digest is the old one's, so it is shown as changed");
    if (health)
        health_state_changed(vm);
    if (plan_diff_find(&u->diff, "/logs"))
        vm_logs_limits(vm);
}

/* A line for each thing that is different. */
static json_t *describe(const struct plan_diff *diff)
{
    auto_json json_t *lines = json_array();

    for (size_t i = 0; i < diff->n_steps; i++) {
        const struct forward_step *step = &diff->steps[i];

        if (json_array_append_new(lines, json_sprintf("forward %s %s", step->rule, step->add ? "added" : "removed")) < 0)
            return NULL;
    }
    for (size_t i = 0; i < diff->n_changes; i++) {
        const char *what = diff->changes[i].what;

        if (streq(what, PLAN_CHANGE_CAPABILITIES) || (streq(what, PLAN_CHANGE_FORWARDS) && diff->n_steps > 0))
            continue;
        if (json_array_append_new(lines, json_string(streq(what, PLAN_CHANGE_FORWARDS) ? "order of forwards" : what + 1)) < 0)
            return NULL;
    }
    return steal_ptr(&lines);
}

static char *join(const json_t *lines)
{
    char *text = NULL;
    const json_t *line;
    size_t i;

    json_array_foreach (lines, i, line) {
        auto_free char *before = text;

        text = NULL;
        if (str_format(&text, "%s%s%s", before ? before : "", before ? ", " : "", json_string_value(line)) < 0)
            return NULL;
    }
    return text;
}

/* QEMU has what the new plan says. */
void update_forwarded(struct update *u)
{
    struct vm *vm = u->vm;
    auto_json json_t *lines = NULL;
    auto_free char *text = NULL;

    FAILPOINT("shim.update-after-qmp");
    if (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED && vm->state != STATE_BACKOFF) {
        err_set(&u->err, EBUSY, "wrong-state", "%s is %s by now: it stays as it was", vm->plan.name,
                enum_to_string(&vm_state_names, (int)vm->state));
        update_undo(u, u->done);
        return;
    }
    if (renameat(vm->run_fd, FILE_PLAN_NEXT, vm->run_fd, FILE_PLAN) < 0) {
        err_set_errno(&u->err, errno, "no-plan", "can't write %s/%s", vm->plan.run_dir, FILE_PLAN);
        update_undo(u, u->done);
        return;
    }
    FAILPOINT("shim.update-after-write");
    take_plan(u);
    lines = describe(&u->diff);
    text = join(lines);
    log_vm_info(vm->plan.name, "updated: %s", text ? text : "");
    vm_tell(vm, EVENT_UPDATED, lines ? json_pack("{sO}", "changed", lines) : NULL, "updated: %s", text ? text : "");
    if (u->call) {
        varlink_call_on_gone(u->call, NULL, NULL);
        varlink_call_reply_consume(u->call, json_pack("{sO}", "changed", lines));
    }
    end(u);
}

/* ---- its begin ---- */

static int check_state(const struct vm *vm, struct err *err)
{
    const char *state = enum_to_string(&vm_state_names, (int)vm->state);

    if (vm->plan.restore.folder || (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED && vm->state != STATE_BACKOFF))
        return err_set(err, EBUSY, "wrong-state", "%s is %s, so it can't be changed now", vm->plan.name, state);
    if (vm->state != STATE_BACKOFF && (!vm->qemu.qmp || !vm->qemu.qmp_ready))
        return err_set(err, EBUSY, "wrong-state", "QEMU's monitor of %s isn't there (yet)", vm->plan.name);
    return 0;
}

static int check_changes(struct update *u, struct err *err)
{
    const struct plan_change *obstacle;
    int r = plan_compare(&u->vm->plan, &u->plan, &u->diff);

    if (r < 0)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    obstacle = plan_diff_obstacle(&u->diff);
    if (obstacle)
        return err_set(err, EPERM, "restart-needed", "%s of the plan differs, which QEMU is given only at its start", obstacle->what);
    if (!update_steps_are_plain(&u->diff))
        return err_set(err, EINVAL, "bad-plan", "a forward of the new plan is none that QEMU's monitor can be told");
    return 0;
}

static int write_next(const struct update *u, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = plan_to_json(&u->plan, &json);

    if (r >= 0)
        r = json_format(json, &text, &len);
    if (r >= 0)
        r = file_write(u->vm->run_fd, FILE_PLAN_NEXT, text, len, 0640, FILE_ATOMIC);
    return r < 0 ? err_set_errno(err, -r, "no-plan", "can't write %s/%s", u->vm->plan.run_dir, FILE_PLAN_NEXT) : 0;
}

static void refuse(struct update *u)
{
    if (u->call) {
        varlink_call_on_gone(u->call, NULL, NULL);
        reply_error(u->call, u->vm, &u->err);
    }
    end(u);
}

static void on_no_monitor(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct update *u = container_of(w, struct update, monitor);

    u->waited = true;
    begin(u);
}

static bool must_wait(const struct update *u)
{
    const struct vm *vm = u->vm;

    return !u->waited && vm->qemu.qmp && !vm->qemu.qmp_ready && !vm->qemu.qmp_closed &&
           (vm->state == STATE_RUNNING || vm->state == STATE_PAUSED);
}

static void begin(struct update *u)
{
    struct vm *vm = u->vm;

    if (must_wait(u)) {
        ev_timer_init(&u->monitor, on_no_monitor, MONITOR_WAIT_MS / 1000.0, 0.0);
        ev_timer_start(loop_ev(vm->loop), &u->monitor);
        return;
    }
    u->begun = true;
    if (check_state(vm, &u->err) < 0 || check_changes(u, &u->err) < 0) {
        refuse(u);
        return;
    }
    if (u->diff.n_changes == 0) {
        if (u->call) {
            varlink_call_on_gone(u->call, NULL, NULL);
            varlink_call_reply_consume(u->call, json_pack("{s[]}", "changed"));
        }
        end(u);
        return;
    }
    if (write_next(u, &u->err) < 0) {
        refuse(u);
        return;
    }
    FAILPOINT("shim.update-before-qmp");
    if (vm->state == STATE_BACKOFF) /* the next QEMU begins with it */
        u->done = u->diff.n_steps;
    update_forward(u);
}

void vm_update_monitor_ready(struct vm *vm)
{
    struct update *u = vm->update;

    if (!u || !ev_is_active(&u->monitor))
        return;
    ev_timer_stop(loop_ev(vm->loop), &u->monitor);
    begin(u);
}

static void queue(struct update *u)
{
    struct update **tail = &u->vm->update;

    while (*tail)
        tail = &(*tail)->next;
    *tail = u;
    if (u->vm->update == u)
        begin(u);
}

static void on_caller_gone(void *arg)
{
    struct update *u = arg;

    u->call = NULL;
}

void api_update(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    struct err err = ERR_INIT;
    struct update *u;
    int r;

    if (!api_means_us(vm, call, parameters))
        return;
    u = calloc(1, sizeof(*u));
    r = u ? plan_from_json(json_object_get(parameters, "plan"), &u->plan, &err) : -ENOMEM;
    if (r >= 0 && !streq(u->plan.name, vm->plan.name))
        r = err_set(&err, EINVAL, "bad-plan", "the plan is for %s, not for %s", u->plan.name, vm->plan.name);
    if (r < 0) {
        api_reply_failed(call, err_is_set(&err) ? err.id : "no-memory", err_is_set(&err) ? err.text : "out of memory");
        update_free(u);
        return;
    }
    free(steal_ptr(&u->plan.restore.folder)); /* how a start begins is no business of a VM that runs */
    u->vm = vm;
    u->call = call;
    varlink_call_on_gone(call, on_caller_gone, u);
    queue(u);
}

/* ---- what a dead shim had begun ---- */

static int read_next(struct vm *vm, struct plan *ret_plan, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(vm->run_fd, FILE_PLAN_NEXT, RECORD_MAX, &text, &len);

    if (r >= 0)
        r = json_parse(text, len, &json, err);
    return r < 0 ? r : plan_from_json(json, ret_plan, err);
}

void vm_update_adopt(struct vm *vm)
{
    auto_free char *aside = NULL;
    struct err err = ERR_INIT;
    struct update *u = calloc(1, sizeof(*u));
    int r = u ? read_next(vm, &u->plan, &err) : -ENOMEM;

    if (r >= 0)
        r = plan_compare(&vm->plan, &u->plan, &u->diff);
    if (r >= 0 && !update_steps_are_plain(&u->diff))
        r = err_set(&err, EINVAL, "bad-record", "its forwards aren't any");
    if (r < 0) {
        if (r != -ENOENT && file_set_aside(vm->run_fd, FILE_PLAN_NEXT, &aside) >= 0)
            vm_tell(vm, EVENT_SHIM, NULL, "%s set aside as %s, so forwards may differ from the plan: %s", FILE_PLAN_NEXT, aside,
                    err_is_set(&err) ? err.text : strerror(-r));
        update_free(u);
        return;
    }
    u->vm = vm;
    u->begun = true;
    if (vm->update) /* it waits for the monitor, and its turn comes after this one */
        ev_timer_stop(loop_ev(vm->loop), &vm->update->monitor);
    u->next = vm->update;
    vm->update = u;
    (void)err_set(&u->err, ECANCELED, "undone", "a change that the dead shim had begun was undone");
    update_undo(u, u->diff.n_steps);
}

void vm_update_clear(struct vm *vm)
{
    for (struct update *u = vm->update, *next; u; u = next) {
        next = u->next;
        if (u->call)
            varlink_call_on_gone(u->call, NULL, NULL);
        u->call = NULL;
        u->abandoned = true;
        if (u->begun)
            continue; /* its monitor's last word frees it */
        loop_undefer(&u->turn);
        ev_timer_stop(loop_ev(vm->loop), &u->monitor);
        update_free(u);
    }
    vm->update = NULL;
}
