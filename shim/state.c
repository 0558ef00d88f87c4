/* States and events of one VM (DESIGN §7). A missing cell is an illegal event: logged, refused, never undefined. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "shim/health.h"
#include "shim/restore.h"
#include "shim/vm.h"

static const char *const event_names[] = {
    [VM_GO] = "go",     [VM_PREPARED] = "prepared", [VM_RESUMED] = "resumed", [VM_PAUSED] = "paused", [VM_RESTORE] = "restore",
    [VM_STOP] = "stop", [VM_ENDED] = "ended",       [VM_FAILED] = "failed",   [VM_RETRY] = "retry",
};
const struct enum_names vm_event_names = { "vm event", event_names, ARRAY_LEN(event_names) };

struct cell {
    enum vm_state next;
    void (*action)(struct vm *vm); /* runs after the state was entered, written and told; may be NULL */
    bool legal;
};

static void cancel_and_finish(struct vm *vm);
static void end_backoff(struct vm *vm);

#define TO(state_, action_)                                  \
    {                                                        \
        .next = (state_), .action = (action_), .legal = true \
    }
#define END_CELLS [VM_ENDED] = TO(STATE_EXITED, vm_finish), [VM_FAILED] = TO(STATE_FAILED, vm_finish), [VM_RETRY] = TO(STATE_BACKOFF, NULL)

static const struct cell table[STATE_COUNT][VM_EVENT_COUNT] = {
    [STATE_PREPARING] = {
        [VM_GO] = TO(STATE_PREPARING, vm_prepare),
        [VM_PREPARED] = TO(STATE_LAUNCHING, vm_launch),
        [VM_RESTORE] = TO(STATE_RESTORING, vm_launch),
        [VM_STOP] = TO(STATE_STOPPING, cancel_and_finish),
        END_CELLS,
    },
    [STATE_LAUNCHING] = {
        [VM_RESUMED] = TO(STATE_RUNNING, NULL),
        [VM_PAUSED] = TO(STATE_PAUSED, NULL),
        [VM_STOP] = TO(STATE_STOPPING, vm_ladder_begin),
        END_CELLS,
    },
    [STATE_RESTORING] = {
        [VM_RESUMED] = TO(STATE_RUNNING, restore_done),
        [VM_PAUSED] = TO(STATE_PAUSED, NULL),
        [VM_STOP] = TO(STATE_STOPPING, vm_ladder_begin),
        END_CELLS,
    },
    [STATE_RUNNING] = {
        [VM_RESUMED] = TO(STATE_RUNNING, NULL),
        [VM_PAUSED] = TO(STATE_PAUSED, NULL),
        [VM_STOP] = TO(STATE_STOPPING, vm_ladder_begin),
        END_CELLS,
    },
    [STATE_PAUSED] = {
        [VM_RESUMED] = TO(STATE_RUNNING, NULL),
        [VM_PAUSED] = TO(STATE_PAUSED, NULL),
        [VM_STOP] = TO(STATE_STOPPING, vm_ladder_begin),
        END_CELLS,
    },
    [STATE_STOPPING] = {
        [VM_RESUMED] = TO(STATE_STOPPING, NULL), /* the ladder resumes a paused guest so that it can hear the power button */
        [VM_PAUSED] = TO(STATE_STOPPING, NULL),
        [VM_STOP] = TO(STATE_STOPPING, NULL),
        END_CELLS, /* VM_RETRY: the stop was a probe's wish, and the VM comes again */
    },
    [STATE_BACKOFF] = {
        [VM_GO] = TO(STATE_PREPARING, vm_prepare),
        [VM_STOP] = TO(STATE_STOPPING, end_backoff),
        [VM_ENDED] = TO(STATE_EXITED, vm_finish),
    },
    [STATE_EXITED] = { [VM_STOP] = TO(STATE_EXITED, NULL) },
    [STATE_FAILED] = { [VM_STOP] = TO(STATE_FAILED, NULL) },
};

static void cancel_and_finish(struct vm *vm)
{
    vm_prepare_cancel(vm);
    vm_launch_failed(vm, NULL, "stopped before QEMU was started");
}

static void end_backoff(struct vm *vm)
{
    ev_timer_stop(loop_ev(vm->loop), &vm->retry);
    vm_handle(vm, VM_ENDED, "stopped while waiting to be started again");
}

int vm_would_become(enum vm_state state, enum vm_event event)
{
    const struct cell *cell = &table[state][event];

    return cell->legal ? (int)cell->next : -EPERM;
}

static void set_state(struct vm *vm, enum vm_state next, const char *detail)
{
    const char *from = enum_to_string(&vm_state_names, vm->state), *to = enum_to_string(&vm_state_names, next);
    json_t *data = json_pack("{ss ss}", "from", from, "to", to);

    if (next == STATE_BACKOFF && data)
        (void)json_object_set_new(data, "delay_ms", json_integer((json_int_t)vm->retry_ms));
    vm->state = next;
    vm->since = clock_real_us();
    health_state_changed(vm);
    if (str_set(&vm->detail, detail) < 0)
        free(steal_ptr(&vm->detail));
    if (vm->detail)
        utf8_clean(vm->detail);
    log_vm_info(vm->plan.name, "%s -> %s%s%s", from, to, detail ? ": " : "", detail ? detail : "");
    vm_tell(vm, EVENT_STATE, data, "%s%s%s", to, detail ? ": " : "", detail ? detail : "");
}

int vm_handle(struct vm *vm, enum vm_event event, const char *detail)
{
    const struct cell *cell = &table[vm->state][event];

    if (!cell->legal) {
        log_vm_warning(vm->plan.name, "event %s means nothing in state %s, ignored", enum_to_string(&vm_event_names, event),
                       enum_to_string(&vm_state_names, vm->state));
        return -EPERM;
    }
    if (cell->next != vm->state)
        set_state(vm, cell->next, detail);
    if (cell->action)
        cell->action(vm);
    return 0;
}
