#include "lib/manager/wait.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/manager/api.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

struct waiter {
    struct waiter *next, **prev_next;
    struct vm *vm;
    struct varlink_call *call; /* NULL: `told` is asked for instead */
    void (*told)(void *arg, struct vm *vm, const struct err *err);
    void *told_arg;
    struct wait_for what;
    bool reached;             /* was where it should be, and only the disk is awaited */
    bool said_stopping;       /* to who asked, once */
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

    if (reply && w->what.reply)
        (void)json_object_update_missing(reply, w->what.reply);
    varlink_call_reply_consume(take_call(w), reply);
}

/* Where a wait has come to. */
struct verdict {
    enum { WAIT_ON, WAIT_DONE, WAIT_REFUSED, WAIT_FAILED } kind;
    struct err err;     /* of the last two */
    const char *detail; /* borrowed of the VM, NULL: none */
};

/* `fmt` into the verdict. */
__attribute__((format(printf, 4, 5))) static void conclude(struct verdict *v, bool refused, const char *id, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    v->kind = refused ? WAIT_REFUSED : WAIT_FAILED;
    err_set(&v->err, EIO, id, "%s", text);
}

static void fail_with_exit(const struct waiter *w, struct verdict *v)
{
    const struct vm *vm = w->vm;
    auto_free char *what = vm->last_exit ? exit_describe(vm->last_exit) : NULL;

    v->detail = vm->last_exit ? vm->last_exit->detail : NULL;
    if (w->what.restored && !vm_exit_known(vm))
        conclude(v, false, "restore", "%s could not be restored: %s", vm->name,
                 vm->reason ? vm->reason : "its shim ended before the guest ran");
    else if (w->what.restored)
        conclude(v, false, "restore", "%s could not be restored: QEMU %s", vm->name, what ? what : "ended");
    else
        conclude(v, false, "ended", "%s %s%s", vm->name, what ? what : "ended before it ran",
                 vm->view == STATE_BACKOFF ? "; its restart policy tries again" : "");
}

/* The call or its like is over. */
static void end_consume(struct waiter *w, const struct verdict *v)
{
    struct vm *vm = w->vm;
    void (*told)(void *arg, struct vm *vm, const struct err *err) = w->told;
    void *arg = w->told_arg;

    if (told) {
        waiter_free(w);
        told(arg, vm, v->kind == WAIT_DONE ? NULL : &v->err);
    } else if (v->kind == WAIT_DONE) {
        succeed(w);
    } else if (v->kind == WAIT_REFUSED) {
        api_refuse(take_call(w), vm->name, "%s", v->err.text);
    } else {
        api_fail(take_call(w), vm->name, v->err.id, v->detail, "%s", v->err.text);
    }
}

static bool on_its_way_out(const struct vm *vm)
{
    return vm->view == STATE_EXITED || vm->view == STATE_FAILED || vm->view == STATE_BACKOFF;
}

/* Its records were looked at (again) and still don't say what it is: nothing comes of a start until somebody mends them. */
static bool is_riddle(const struct vm *vm) { return vm->presence == PRESENCE_GONE && vm->unclear && !vm->from_next; }

static void judge_start(struct waiter *w, struct verdict *v)
{
    struct vm *vm = w->vm;
    /* A later start or restart moves the goal of an earlier one. */
    bool there = vm->incarnation >= w->what.target && vm->incarnation >= vm->wanted.from;
    int written = w->what.written ? wish_written(vm, w->what.write) : 1;

    if (there && vm->presence == PRESENCE_SHIM && (vm->view == STATE_RUNNING || (vm->view == STATE_PAUSED && !w->what.resumed)))
        w->reached = true;
    if (written == 0)
        return;
    if (written < 0)
        conclude(v, false, "not-saved", "the wish that %s runs can't be written to disk (see the manager's log)", vm->name);
    else if (w->reached)
        v->kind = WAIT_DONE;
    else if (vm->wanted.wish != WANTED_RUNNING)
        conclude(v, true, "refused", "%s was stopped meanwhile", vm->name);
    else if (vm->launch)
        v->kind = WAIT_ON;
    else if (vm->manager->draining && vm->presence == PRESENCE_GONE)
        conclude(v, true, "refused", API_DRAINING);
    else if (vm->launch_failures != w->launch_failures)
        conclude(v, vm->refused, vm->refused ? "refused" : "launch", "%s can't be %s: %s", vm->name,
                 w->what.restored ? "restored" : "started", vm->reason ? vm->reason : "unknown");
    else if (vm->view == VIEW_UNRESPONSIVE)
        conclude(v, false, "unresponsive", API_UNRESPONSIVE, vm->name, (int)vm->shim_pid);
    else if (vm_is_lost(vm) || (vm->presence == PRESENCE_SHIM && vm->view == VIEW_UNKNOWN) || is_riddle(vm))
        conclude(v, false, enum_to_string(&vm_view_names, vm->view), "%s: %s", vm->name, vm->reason ? vm->reason : "");
    else if (there && ((vm->presence == PRESENCE_SHIM && on_its_way_out(vm)) || vm->presence == PRESENCE_GONE))
        fail_with_exit(w, v);
}

/* True: answered and freed. */
static bool check_started(struct waiter *w)
{
    struct verdict v = { .kind = WAIT_ON };

    judge_start(w, &v);
    if (v.kind == WAIT_ON)
        return false;
    end_consume(w, &v);
    return true;
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

static struct waiter *waiter_new(struct vm *vm, const struct wait_for *what)
{
    struct waiter *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->vm = vm;
    w->what = *what;
    w->launch_failures = vm->launch_failures;
    ev_timer_init(&w->timeout, on_timeout, 0., 0.);
    w->next = vm->waiters;
    w->prev_next = &vm->waiters;
    if (w->next)
        w->next->prev_next = &w->next;
    vm->waiters = w;
    return w;
}

void wait_begin_told(struct vm *vm, const struct wait_for *what, void (*told)(void *arg, struct vm *vm, const struct err *err), void *arg)
{
    struct waiter *w = waiter_new(vm, what);
    struct err err = ERR_INIT;

    if (!w) {
        err_set(&err, ENOMEM, "no-memory", "out of memory");
        told(arg, vm, &err);
        return;
    }
    w->told = told;
    w->told_arg = arg;
    check(w);
}

void wait_begin_consume(struct vm *vm, struct varlink_call *call, const struct wait_for *what)
{
    struct ev_loop *ev = loop_ev(vm->manager->loop);
    struct waiter *w = waiter_new(vm, what);

    if (!w) {
        json_decref(what->reply);
        api_fail_memory(call);
        return;
    }
    w->call = call;
    varlink_call_on_gone(call, on_gone, w);
    if (check(w) || what->timeout_ms == 0)
        return;
    ev_now_update(ev);
    ev_timer_set(&w->timeout, (double)what->timeout_ms / 1000., 0.);
    ev_timer_start(ev, &w->timeout);
}

/* Once the wish is on disk, for those who wait for no more than to be heard: of a VM that the kernel takes down for hours no event may come. */
static void say_stopping(struct waiter *w)
{
    struct vm *vm = w->vm;
    bool written = !w->what.written || wish_written(vm, w->what.write) > 0;

    if (w->said_stopping || !written || vm->view != STATE_STOPPING || !w->call || !varlink_call_wants_more(w->call) ||
        (w->what.kind != WAIT_STARTED && w->what.kind != WAIT_STOPPED))
        return;
    w->said_stopping = true;
    varlink_call_continue_consume(w->call, json_pack("{s:o}", "progress", json_text(vm->reason ? vm->reason : "stopping")));
}

void waiters_check(struct vm *vm)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        if (!check(w))
            say_stopping(w);
    }
}

void waiters_progress(struct vm *vm, const char *text)
{
    for (struct waiter *w = vm->waiters, *next; w; w = next) {
        next = w->next;
        if (w->what.kind != WAIT_STARTED && w->what.kind != WAIT_STOPPED)
            continue;
        if (w->call && varlink_call_wants_more(w->call))
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
    while (vm->waiters) {
        struct verdict v = { .kind = WAIT_ON };

        if (!vm->waiters->told) {
            api_no_such_vm(take_call(vm->waiters), vm->name);
            continue;
        }
        conclude(&v, true, "deleted", "%s was deleted meanwhile", vm->name);
        end_consume(vm->waiters, &v);
    }
}

void waiters_drop(struct vm *vm)
{
    while (vm->waiters) {
        struct verdict v = { .kind = WAIT_ON };

        if (!vm->waiters->told) {
            waiter_free(vm->waiters);
            continue;
        }
        conclude(&v, false, "stopping", "the manager ends");
        end_consume(vm->waiters, &v);
    }
}
