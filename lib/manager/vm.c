#include "lib/manager/vm.h"

#include <errno.h>
#include <stdarg.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/manager/drain.h"
#include "lib/manager/edit_pull.h"
#include "lib/manager/link.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/rollout.h"
#include "lib/manager/spec_gone.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"

const char *name_path(const char *name, const char *file, char buf[VM_PATH_MAX])
{
    snprintf(buf, VM_PATH_MAX, "%s/%s", name, file);
    return buf;
}

const char *vm_path(const struct vm *vm, const char *file, char buf[VM_PATH_MAX]) { return name_path(vm->name, file, buf); }

static void timer_fired(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct vm *vm = container_of(timer, struct vm, timer);
    enum vm_timer use = vm->timer_use;

    vm->timer_use = TIMER_NONE;
    if (use == TIMER_RELAUNCH)
        reconcile_relaunch(vm);
    else
        link_timer(vm, use);
}

int vm_new(struct manager *m, const char *name, struct vm **ret_vm)
{
    struct vm *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return -ENOMEM;
    vm->name = strdup(name);
    if (!vm->name) {
        free(vm);
        return -ENOMEM;
    }
    vm->manager = m;
    vm->refs = 1;
    vm->view = VIEW_STOPPED;
    vm->policy = RESTART_ON_FAILURE;
    vm->wanted.schema = WANTED_SCHEMA;
    vm->process = PIDREF_NONE;
    ev_timer_init(&vm->timer, timer_fired, 0., 0.);
    *ret_vm = vm;
    return 0;
}

struct vm *vm_ref(struct vm *vm)
{
    vm->refs++;
    return vm;
}

void vm_unref(struct vm *vm)
{
    if (--vm->refs > 0)
        return;
    link_close(vm);
    edit_pull_drop(vm);
    loop_undefer(&vm->settle);
    vm_timer_stop(vm);
    if (vm->last_exit)
        exit_clear(vm->last_exit);
    free(vm->last_exit);
    wanted_clear(&vm->wanted);
    free(vm->spec_file);
    free(vm->spec_second);
    free(vm->spec_error);
    free(vm->restart_refused);
    free(vm->reason);
    free(vm->image);
    free(vm->launch_error);
    free(vm->scope_error);
    free(vm->name);
    free(vm);
}

void vm_set_view(struct vm *vm, enum vm_view view, const char *fmt, ...)
{
    enum vm_view before = vm->view;
    char *reason = NULL;
    bool same;

    if (fmt) {
        va_list args;

        va_start(args, fmt);
        if (vasprintf(&reason, fmt, args) < 0)
            reason = NULL;
        va_end(args);
    }
    same = before == view && streq_opt(vm->reason, reason);
    free(vm->reason);
    vm->reason = reason;
    vm->view = (uint8_t)view;
    if (same)
        return;
    log_write((int)view == STATE_FAILED || view >= VIEW_UNKNOWN ? LOG_LEVEL_WARNING : LOG_LEVEL_INFO, vm->name, "%s -> %s%s%s",
              enum_to_string(&vm_view_names, (int)before), enum_to_string(&vm_view_names, (int)view), reason ? ": " : "",
              reason ? reason : "");
}

bool vm_exit_known(const struct vm *vm) { return vm->last_exit && vm->last_exit->incarnation >= vm->incarnation; }

enum vm_view vm_rest_view(const struct vm *vm)
{
    if (vm->wanted.wish == WANTED_STOPPED || !vm->last_exit)
        return VIEW_STOPPED;
    switch ((enum exit_kind)vm->last_exit->kind) {
    case EXIT_STOPPED:
        return VIEW_STOPPED;
    case EXIT_GUEST_SHUTDOWN:
    case EXIT_GUEST_RESET:
        return (enum vm_view)STATE_EXITED;
    case EXIT_CODE:
        return (enum vm_view)(vm->last_exit->code == 0 ? STATE_EXITED : STATE_FAILED);
    case EXIT_UNKNOWN:
    case EXIT_GUEST_PANIC:
    case EXIT_SIGNAL:
    case EXIT_OOM:
        break;
    }
    return (enum vm_view)STATE_FAILED;
}

int vm_set_exit_take(struct vm *vm, struct exit_record *exit)
{
    if (!vm->last_exit) {
        vm->last_exit = calloc(1, sizeof(*vm->last_exit));
        if (!vm->last_exit)
            return -ENOMEM;
    } else {
        exit_clear(vm->last_exit);
    }
    *vm->last_exit = *exit;
    memset(exit, 0, sizeof(*exit));
    /* Who it is about is known, and a thousand copies of the boot id help nobody. */
    free(vm->last_exit->name);
    vm->last_exit->name = NULL;
    free(vm->last_exit->boot_id);
    vm->last_exit->boot_id = NULL;
    return 0;
}

json_t *json_text(const char *s)
{
    auto_free char *copy = NULL;
    json_t *json;

    if (!s)
        return NULL;
    json = json_string(s);
    if (json)
        return json;
    copy = strdup(s);
    if (!copy)
        return NULL;
    utf8_clean(copy);
    return json_string(copy);
}

static uint64_t vm_uptime_ms(const struct vm *vm)
{
    uint64_t now;

    if (vm->started_us == 0)
        return 0;
    now = clock_boottime_us();
    return now > vm->started_us ? (now - vm->started_us) / 1000 : 0;
}

/* Why it is what it is; what is about to be done with it comes first. */
static json_t *reason_of(const struct vm *vm)
{
    auto_free char *gone = spec_gone_reason(vm), *restart = rollout_reason(vm), *pull = edit_pull_reason(vm);
    const char *lost = !vm->has_spec || vm->gone != GONE_NO ? NULL : vm->manager->specs_lost;

    return json_text(gone             ? gone
                     : restart        ? restart
                     : pull           ? pull
                     : vm->reason     ? vm->reason
                     : vm->spec_error ? vm->spec_error
                     : lost           ? lost
                                      : vm->scope_error);
}

json_t *vm_to_wire(const struct vm *vm)
{
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN;
    bool changed = lives && vm->plan_digest[0] && vm->next_digest[0] && !streq(vm->plan_digest, vm->next_digest);

    return json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:I, s:o?, s:o?, s:o?, s:b, s:b, s:o?}", "name", vm->name, "wanted",
                     enum_to_string(&vm_wanted_names, vm->wanted.wish), "state", enum_to_string(&vm_view_names, vm->view), "health",
                     enum_to_string(&vm_health_names, vm->health), "incarnation", (json_int_t)vm->incarnation, "restarts",
                     (json_int_t)vm->restarts, "uptime_ms", (json_int_t)vm_uptime_ms(vm), "shim_pid",
                     vm->shim_pid > 0 ? json_integer(vm->shim_pid) : NULL, "qemu_pid", vm->qemu_pid > 0 ? json_integer(vm->qemu_pid) : NULL,
                     "last_exit", vm->last_exit ? exit_to_wire(vm->last_exit) : NULL, "enabled", (int)vm->enabled, "changed", (int)changed,
                     "reason", reason_of(vm));
}

void vm_timer_start(struct vm *vm, enum vm_timer use, uint64_t ms)
{
    struct ev_loop *ev = loop_ev(vm->manager->loop);

    ev_timer_stop(ev, &vm->timer);
    /* The loop's idea of now may be old after a long callback. */
    ev_now_update(ev);
    ev_timer_set(&vm->timer, (double)ms / 1000., 0.);
    ev_timer_start(ev, &vm->timer);
    vm->timer_use = (uint8_t)use;
}

void vm_timer_stop(struct vm *vm)
{
    ev_timer_stop(loop_ev(vm->manager->loop), &vm->timer);
    vm->timer_use = TIMER_NONE;
}

static void settle(void *arg)
{
    struct vm *vm = arg;
    struct manager *m = vm->manager;

    reconcile_vm(vm);
    drain_step(m);
}

void vm_changed(struct vm *vm)
{
    waiters_check(vm);
    rollout_check(vm);
    loop_defer(vm->manager->loop, &vm->settle, settle, vm);
}

bool vm_is_lost(const struct vm *vm) { return vm->presence == PRESENCE_ORPHAN && !vm->launch && vm->timer_use == TIMER_LOOK; }
