#include "lib/manager/wait.h"

#include <errno.h>

#include "lib/manager/api.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

struct waiter {
    struct waiter *next, **prev_next;
    struct vm *vm;
    struct varlink_call *call;
    struct wait_for what;
    bool reached;             /* was where it should be, and only the disk is awaited */
    uint32_t launch_failures; /* of the VM, when the wait began */
    ev_timer timeout;
};

static void waiter_free(struct waiter *w)
{
    *w->prev_next = w->next;
    if (w->next)
        w->next->prev_next = w->prev_next;
    ev_timer_stop(loop_ev(w->vm->manager->loop), &w->timeout);
    json_decref(w->what.reply);
    free(w);
}

/* The call of a waiter that ends here. */
static struct varlink_call *take_call(struct waiter *w)
{
    struct varlink_call *call = w->call;

    waiter_free(w);
    return call;
}

static void on_gone(void *arg) { waiter_free(arg); }

static void on_timeout(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct waiter *w = container_of(timer, struct waiter, timeout);
    const struct vm *vm = w->vm;

    api_timed_out(take_call(w), vm->name, "%s is %s after the time given", vm->name, enum_to_string(&vm_view_names, vm->view));
}

static void succeed(struct waiter *w)
{
    json_t *reply = json_pack("{s:o}", "vm", vm_to_wire(w->vm));

    varlink_call_reply_consume(take_call(w), reply);
}

static void fail_with_exit(struct waiter *w)
{
    const struct vm *vm = w->vm;
    auto_free char *what = vm->last_exit ? exit_describe(vm->last_exit) : NULL;

    api_fail(take_call(w), vm->name, "ended", vm->last_exit ? vm->last_exit->detail : NULL, "%s %s%s", vm->name,
             what ? what : "ended before it ran", vm->view == STATE_BACKOFF ? "; its restart policy tries again" : "");
}

static bool on_its_way_out(const struct vm *vm)
{
    return vm->view == STATE_EXITED || vm->view == STATE_FAILED || vm->view == STATE_BACKOFF;
}

/* Its records were looked at (again) and still don't say what it is: nothing comes of a start until somebody mends them. */
static bool is_riddle(const struct vm *vm) { return vm->presence == PRESENCE_GONE && vm->unclear && !vm->from_next; }

/* True: answered and freed. */
static bool check_started(struct waiter *w)
{
    struct vm *vm = w->vm;
    /* A later start or restart moves the goal of an earlier one. */
    bool there = vm->incarnation >= w->what.target && vm->incarnation >= vm->wanted.from;

    if (there && vm->presence == PRESENCE_SHIM && (vm->view == STATE_RUNNING || (vm->view == STATE_PAUSED && !w->what.resumed)))
        w->reached = true;
    if (w->what.written && wish_written(vm, w->what.write) == 0)
        return false;
    if (w->what.written && wish_written(vm, w->what.write) < 0) {
        api_fail(take_call(w), vm->name, "not-saved", NULL, "the wish that %s runs can't be written to disk (see the manager's log)",
                 vm->name);
        return true;
    }
    if (w->reached) {
        succeed(w);
        return true;
    }
    if (vm->wanted.wish != WANTED_RUNNING) {
        api_refuse(take_call(w), vm->name, "%s was stopped meanwhile", vm->name);
        return true;
    }
    if (vm->launch)
        return false;
    if (vm->launch_failures != w->launch_failures) {
        api_fail(take_call(w), vm->name, "launch", NULL, "%s can't be started: %s", vm->name, vm->reason ? vm->reason : "unknown");
        return true;
    }
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(take_call(w), vm);
        return true;
    }
    if (vm_is_lost(vm) || (vm->presence == PRESENCE_SHIM && vm->view == VIEW_UNKNOWN) || is_riddle(vm)) {
        api_fail(take_call(w), vm->name, enum_to_string(&vm_view_names, vm->view), NULL, "%s: %s", vm->name, vm->reason ? vm->reason : "");
        return true;
    }
    if (there && ((vm->presence == PRESENCE_SHIM && on_its_way_out(vm)) || vm->presence == PRESENCE_GONE)) {
        fail_with_exit(w);
        return true;
    }
    return false;
}

static bool check_stopped(struct waiter *w)
{
    struct vm *vm = w->vm;
    int written = w->what.written ? wish_written(vm, w->what.write) : 1;

    if (written < 0) {
        api_fail(
            take_call(w), vm->name, "not-saved", NULL,
            "the wish that %s stops can't be written to disk (see the manager's log), so it runs on: make room there, or stop it at its shim: "
            "vmctl shim call %s Stop '{\"incarnation\": %llu}'",
            vm->name, vm->name, (unsigned long long)vm->incarnation);
        return true;
    }
    if (written > 0 && ((vm->presence == PRESENCE_GONE && !vm->launch) || vm->incarnation > w->what.target)) {
        succeed(w);
        return true;
    }
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(take_call(w), vm);
        return true;
    }
    if (vm_is_lost(vm) && !w->what.killed) {
        api_fail(take_call(w), vm->name, "orphaned", NULL, "%s has lost its shim and can't be stopped gently: use kill", vm->name);
        return true;
    }
    if (vm->presence == PRESENCE_SHIM && vm->view == VIEW_UNKNOWN) {
        api_fail(take_call(w), vm->name, "unknown", NULL, "%s: %s", vm->name, vm->reason ? vm->reason : "");
        return true;
    }
    return false;
}

static bool check_condition(struct waiter *w)
{
    const struct vm *vm = w->vm;

    if (w->what.condition == CONDITION_HEALTHY ? vm->health != HEALTH_HEALTHY : vm->view != w->what.condition)
        return false;
    succeed(w);
    return true;
}

static bool check_applied(struct waiter *w)
{
    struct vm *vm = w->vm;
    int written = w->what.written ? wish_written(vm, w->what.write) : 1;

    if (written == 0)
        return false;
    if (written < 0) {
        api_fail(
            take_call(w), vm->name, "not-saved", NULL,
            "%s is started, but the wish for it can't be written to disk (see the manager's log): it would not be started again after a reboot",
            vm->name);
    } else {
        json_t *reply = steal_ptr(&w->what.reply);

        varlink_call_reply_consume(take_call(w), reply);
    }
    return true;
}

/* The stop that a delete begins with may be impossible. */
static bool check_deleted(struct waiter *w)
{
    struct vm *vm = w->vm;

    if (w->what.written && wish_written(vm, w->what.write) < 0) {
        api_fail(take_call(w), vm->name, "not-saved", NULL, "the delete of %s can't be written to disk (see the manager's log)", vm->name);
        return true;
    }
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(take_call(w), vm);
        return true;
    }
    if (vm_is_lost(vm) || (vm->presence == PRESENCE_SHIM && vm->view == VIEW_UNKNOWN)) {
        api_fail(take_call(w), vm->name, enum_to_string(&vm_view_names, vm->view), NULL, "%s: %s; it is deleted once it has ended",
                 vm->name, vm->reason ? vm->reason : "");
        return true;
    }
    return false;
}

static bool check(struct waiter *w)
{
    switch (w->what.kind) {
    case WAIT_STARTED:
        return check_started(w);
    case WAIT_STOPPED:
        return check_stopped(w);
    case WAIT_CONDITION:
        return check_condition(w);
    case WAIT_APPLIED:
        return check_applied(w);
    case WAIT_DELETED:
        return check_deleted(w);
    }
    return false;
}

void wait_begin_consume(struct vm *vm, struct varlink_call *call, const struct wait_for *what)
{
    struct ev_loop *ev = loop_ev(vm->manager->loop);
    struct waiter *w = calloc(1, sizeof(*w));

    if (!w) {
        json_decref(what->reply);
        api_fail_memory(call);
        return;
    }
    w->vm = vm;
    w->call = call;
    w->what = *what;
    w->launch_failures = vm->launch_failures;
    ev_timer_init(&w->timeout, on_timeout, 0., 0.);
    w->next = vm->waiters;
    w->prev_next = &vm->waiters;
    if (w->next)
        w->next->prev_next = &w->next;
    vm->waiters = w;
    varlink_call_on_gone(call, on_gone, w);
    if (check(w) || what->timeout_ms == 0)
        return;
    ev_now_update(ev);
    ev_timer_set(&w->timeout, (double)what->timeout_ms / 1000., 0.);
    ev_timer_start(ev, &w->timeout);
}

void waiters_check(struct vm *vm)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        check(w);
    }
}

void waiters_progress(struct vm *vm, const char *text)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        if (w->what.kind != WAIT_STARTED && w->what.kind != WAIT_STOPPED)
            continue;
        if (varlink_call_wants_more(w->call))
            varlink_call_continue_consume(w->call, json_pack("{s:o}", "progress", json_text(text)));
    }
}

void waiters_deleted(struct vm *vm, const json_t *kept)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        if (w->what.kind == WAIT_DELETED)
            varlink_call_reply_consume(take_call(w), json_pack("{s:O}", "kept", kept));
    }
}

void waiters_delete_failed(struct vm *vm, const char *text)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        if (w->what.kind == WAIT_DELETED)
            api_fail(take_call(w), vm->name, "delete", NULL, "%s can't be deleted: %s", vm->name, text);
    }
}

void waiters_forgotten(struct vm *vm)
{
    while (vm->waiters)
        api_no_such_vm(take_call(vm->waiters), vm->name);
}

void waiters_drop(struct vm *vm)
{
    while (vm->waiters)
        waiter_free(vm->waiters);
}
