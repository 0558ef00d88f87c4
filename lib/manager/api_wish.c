/* The methods that wish: the wish changes at once, what follows from it is reconcile.c's, and the answer is wait.c's. */
#include <errno.h>
#include <signal.h>

#include "lib/manager/api.h"
#include "lib/manager/call.h"
#include "lib/manager/down.h"
#include "lib/manager/link.h"
#include "lib/manager/planner.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"
#include "lib/manager/wish.h"

static bool may_start(struct vm *vm, struct varlink_call *call)
{
    if (vm->wanted.deleting)
        api_refuse(call, vm->name, "%s is being deleted", vm->name);
    else if (vm_is_lost(vm))
        api_refuse(call, vm->name, "%s is orphaned: %s", vm->name, vm->reason ? vm->reason : "no shim supervises it");
    else if (specs_is_twice(vm))
        api_refuse(call, vm->name, "%s", vm->spec_error ? vm->spec_error : "its spec is in two files");
    else if (vm->manager->draining)
        api_refuse(call, vm->name, API_DRAINING);
    else
        return true;
    return false;
}

static bool has_spec(const struct vm *vm, struct varlink_call *call)
{
    if (!vm->has_spec)
        api_refuse(call, vm->name, "there is no spec of %s: apply one", vm->name);
    return vm->has_spec;
}

/* Runs, or is on the way there by itself. */
static bool is_coming(const struct vm *vm)
{
    return vm->presence == PRESENCE_SHIM && vm->answered && vm->view < STATE_STOPPING && vm->stop_sent != vm->incarnation;
}

/* Something of an earlier life may still come to light (a shim that was killed holds its lock a moment longer than it answers), and with it
 * a number above the one we know: the life that is wished for begins behind that one. */
static bool is_unsettled(const struct vm *vm)
{
    return vm->presence == PRESENCE_CHECKING || (vm->presence == PRESENCE_SHIM && !vm->answered);
}

/* A start meanwhile would turn it into a boot. */
static bool is_being_restored(const struct vm *vm)
{
    return (wish_restore_is_due(vm) && !vm->gave_up) || (wish_restore_is_open(vm) && vm->presence != PRESENCE_GONE);
}

uint32_t api_wish_life(struct vm *vm, struct wanted_restore *restore, uint64_t *ret_from)
{
    uint64_t from = vm->incarnation + 1;
    bool was_unclear = vm->unclear && vm->presence == PRESENCE_GONE;
    uint32_t write;

    reconcile_fresh(vm);
    vm->from_next = was_unclear || is_unsettled(vm);
    if (restore)
        restore->from = from;
    write = wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = from, .restore = restore, .keep = true });
    *ret_from = from;
    /* What didn't parse is set aside by now: the end it would have told of is explained before the next life begins. */
    if (was_unclear)
        down_begin(vm);
    return write;
}

static void wish_next(struct vm *vm, struct varlink_call *call)
{
    struct wait_for what = { .kind = WAIT_STARTED, .target = vm->wanted.from, .restored = true };

    if (!is_being_restored(vm)) {
        what.restored = false;
        what.written = true;
        what.write = api_wish_life(vm, NULL, &what.target);
    }
    wait_begin_consume(vm, call, &what);
    vm_changed(vm);
}

static void wish_on(struct vm *vm, struct varlink_call *call, bool resumed)
{
    struct wait_for what = { .kind = WAIT_STARTED, .target = vm->incarnation, .resumed = resumed };

    if (vm->wanted.wish != WANTED_RUNNING || vm->wanted.from > vm->incarnation || vm->unsaved) {
        what.written = true;
        what.write = wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = vm->incarnation, .keep = true });
    }
    wait_begin_consume(vm, call, &what);
    vm_changed(vm);
}

static void resumed(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    struct answer *a = arg;
    const char *reason = json_string_value(json_object_get(r->parameters, "reason"));

    if (r->failure == -ETIMEDOUT)
        link_unanswered(vm);
    if (a->call && (r->failure < 0 || r->error))
        api_fail(a->call, vm->name, "resume", NULL, "%s is paused and can't be resumed: %s", vm->name,
                 reason     ? reason
                 : r->error ? r->error
                            : strerror(-r->failure));
    else if (a->call)
        wish_on(vm, a->call, true);
    free(a);
}

/* A paused VM that is to run is resumed. */
static void start_paused(struct vm *vm, struct varlink_call *call)
{
    struct answer *a = calloc(1, sizeof(*a));
    int r = -ENOMEM;

    if (a)
        r = shim_call_consume(vm, "Resume", json_pack("{s:I}", "incarnation", (json_int_t)vm->incarnation), SHIM_TIMEOUT_MS, resumed, a);
    if (r < 0) {
        free(a);
        api_fail(call, vm->name, "resume", NULL, "can't reach the shim of %s: %s", vm->name, strerror(-r));
        return;
    }
    answer_bind(a, call);
}

void api_start_vm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);

    if (!vm || !may_start(vm, call))
        return;
    if (is_coming(vm) && vm->view == STATE_PAUSED)
        start_paused(vm, call);
    else if (is_coming(vm))
        wish_on(vm, call, false);
    else if (vm->view == VIEW_UNRESPONSIVE)
        api_unresponsive(call, vm);
    else if (has_spec(vm, call))
        wish_next(vm, call);
}

static struct wish_change stop_change(const json_t *parameters)
{
    json_int_t timeout_ms = json_integer_value(json_object_get(parameters, "timeout_ms"));

    return (struct wish_change){
        .wish = WANTED_STOPPED,
        .force = json_is_true(json_object_get(parameters, "force")),
        .timeout_ms = timeout_ms > 0 ? (uint64_t)timeout_ms : 0,
    };
}

static bool same_stop(const struct vm *vm, const struct wish_change *change)
{
    return vm->wanted.wish == WANTED_STOPPED && vm->wanted.force == change->force && vm->wanted.timeout_ms == change->timeout_ms;
}

void api_stop(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    struct wish_change change = stop_change(parameters);
    struct wait_for what = { .kind = WAIT_STOPPED };

    if (!vm)
        return;
    /* One that is just being started counts: it isn't told apart by its number yet. */
    what.target = vm->incarnation > vm->wanted.from ? vm->incarnation : vm->wanted.from;
    change.from = vm->wanted.from;
    change.deleting = vm->wanted.deleting;
    change.purge = vm->wanted.purge;
    reconcile_fresh(vm);
    vm->from_next = false;
    /* What is stopped for good needs no second writing. */
    if (vm->presence != PRESENCE_GONE || vm->launch || !vm->has_wanted || vm->unsaved || vm->wanted.wish != WANTED_STOPPED) {
        vm->stop_due = vm->presence == PRESENCE_SHIM && (!same_stop(vm, &change) || vm->view != STATE_STOPPING);
        what.written = true;
        what.write = wish_change(vm, &change);
    }
    if (vm->presence == PRESENCE_GONE && !vm->launch && vm->view != VIEW_STOPPED)
        vm_set_view(vm, vm_rest_view(vm), NULL);
    wait_begin_consume(vm, call, &what);
    vm_changed(vm);
}

struct restart {
    struct answer answer;
    struct wish_change change;
    uint32_t writes; /* of the VM when the restart was asked for */
};

static void restart_planned(struct plan_request *p)
{
    struct restart *r = p->arg;
    struct vm *vm = p->vm;
    struct varlink_call *call = r->answer.call;
    uint32_t write;

    if (!call) {
        /* Asked and gone before anything was begun. */
    } else if (p->r < 0 && json_array_size(p->problems) > 0) {
        api_bad_spec_consume(call, json_incref(p->problems));
    } else if (p->r < 0 && p->refusal != REFUSAL_NONE) {
        api_refuse(call, vm->name, "%s is not restarted, since it could not be started again: %s", vm->name, p->err.text);
    } else if (p->r < 0) {
        api_fail(call, vm->name, p->err.id, NULL, "%s is not restarted, since it could not be started again: %s", vm->name, p->err.text);
    } else if (vm->gone_from_registry || vm->write_issued != r->writes) {
        api_refuse(call, vm->name, "another command for %s came in between", vm->name);
    } else if (!is_coming(vm)) {
        wish_next(vm, call);
    } else {
        r->change.from = vm->incarnation + 1;
        vm->stop_due = true;
        reconcile_fresh(vm);
        write = wish_change(vm, &r->change);
        wait_begin_consume(vm, call, &(struct wait_for){ .kind = WAIT_STARTED, .target = r->change.from, .written = true, .write = write });
        vm_changed(vm);
    }
    free(r);
    plan_request_free(p);
}

/* What couldn't be started again isn't stopped in the first place. */
void api_restart(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    struct restart *r;

    if (!vm || !may_start(vm, call) || !has_spec(vm, call))
        return;
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(call, vm);
        return;
    }
    r = calloc(1, sizeof(*r));
    if (r) {
        r->change = stop_change(parameters);
        r->change.wish = WANTED_RUNNING;
        r->writes = vm->write_issued;
    }
    if (!r || plan_request(vm, PLAN_ADMIT, restart_planned, r) < 0) {
        free(r);
        api_fail_memory(call);
        return;
    }
    answer_bind(&r->answer, call);
}

struct kill {
    struct answer answer;
    uint32_t write;
    uint64_t incarnation;
};

static void killed(void *arg, struct vm *vm, const struct varlink_reply *reply)
{
    struct kill *k = arg;
    const char *reason = json_string_value(json_object_get(reply->parameters, "reason"));
    const struct wait_for what = { .kind = WAIT_STOPPED, .target = k->incarnation, .written = true, .write = k->write };

    if (reply->failure == -ETIMEDOUT) {
        link_unanswered(vm);
        if (k->answer.call)
            api_unresponsive(k->answer.call, vm);
    } else if (k->answer.call && reply->error) {
        api_refuse(k->answer.call, vm->name, "%s", reason ? reason : reply->error);
    } else if (k->answer.call) {
        /* Also when the line broke: the shim may have left with its QEMU before it answered. */
        wait_begin_consume(vm, k->answer.call, &what);
    }
    free(k);
}

/* Nobody supervises it, but it is proven to be ours and held by its pidfd. */
static void kill_orphan(struct vm *vm, struct varlink_call *call, int sig, uint32_t write)
{
    const struct wait_for what = { .kind = WAIT_STOPPED, .target = vm->incarnation, .written = true, .write = write, .killed = true };
    int r = pidref_kill(&vm->process, sig);

    if (r < 0 && r != -ESRCH)
        api_fail(call, vm->name, "kill", NULL, "can't kill process %d: %s", (int)vm->qemu_pid, strerror(-r));
    else
        wait_begin_consume(vm, call, &what);
}

static void kill_supervised(struct vm *vm, struct varlink_call *call, int sig, uint32_t write)
{
    struct kill *k = calloc(1, sizeof(*k));
    json_t *parameters = json_pack("{s:I, s:i}", "incarnation", (json_int_t)vm->incarnation, "signal", sig);
    int r;

    if (!k) {
        json_decref(parameters);
        api_fail_memory(call);
        return;
    }
    k->write = write;
    k->incarnation = vm->incarnation;
    vm->stop_sent = vm->incarnation; /* no ladder on top of it */
    vm->stop_due = false;
    r = shim_call_consume(vm, "Kill", parameters, SHIM_TIMEOUT_MS, killed, k);
    if (r < 0) {
        free(k);
        if (r == -EAGAIN)
            link_unanswered(vm);
        api_fail(call, vm->name, "kill", NULL, "can't reach the shim of %s: %s", vm->name, strerror(-r));
        return;
    }
    answer_bind(&k->answer, call);
}

void api_kill(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    const json_t *given = json_object_get(parameters, "signal");
    json_int_t sig = json_is_integer(given) ? json_integer_value(given) : SIGKILL;
    struct wish_change change = { .wish = WANTED_STOPPED, .force = true };
    uint32_t write;

    if (!vm)
        return;
    if (sig < 1 || sig >= NSIG) {
        api_refuse(call, vm->name, "%lld is no signal", (long long)sig);
        return;
    }
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(call, vm);
        return;
    }
    if (vm->presence != PRESENCE_SHIM && vm->presence != PRESENCE_ORPHAN) {
        api_stop(call, parameters, userdata);
        return;
    }
    if (vm->presence == PRESENCE_SHIM && !vm->answered) {
        api_refuse(call, vm->name, "what %s is can't be told right now: %s", vm->name,
                   vm->reason ? vm->reason : "its shim has not answered");
        return;
    }
    if (vm->presence == PRESENCE_ORPHAN && vm->process.fd < 0) {
        api_refuse(call, vm->name, "what holds the lock of %s isn't the QEMU on record, so it is not killed", vm->name);
        return;
    }
    change.from = vm->wanted.from;
    change.deleting = vm->wanted.deleting;
    change.purge = vm->wanted.purge;
    write = wish_change(vm, &change);
    if (vm->presence == PRESENCE_ORPHAN)
        kill_orphan(vm, call, (int)sig, write);
    else
        kill_supervised(vm, call, (int)sig, write);
}
