/* The stop ladder: the plan's rungs, each with its time. Stopping itself has no deadline: after the last rung the kernel takes as long
 * as it takes (DESIGN §2.8). */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/log.h"
#include "shim/agent_call.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

/* For a monitor that was just connected, as after a replacement, to greet: a sound one does in milliseconds, a hung one never. */
enum { MONITOR_WAIT_MS = 2000 };

static void take_rung(struct vm *vm);

static bool qmp_send(struct vm *vm, const char *command)
{
    return vm->qemu.qmp_ready && qmp_client_call(vm->qemu.qmp, command, NULL, QMP_TIMEOUT_MS, NULL, NULL) >= 0;
}

static void agent_answered(void *arg, const char *why)
{
    struct vm *vm = arg;

    agent_call_free(steal_ptr(&vm->stop.agent));
}

static bool rung_agent(struct vm *vm)
{
    FAILPOINT("shim.rung-agent");
    agent_call_free(steal_ptr(&vm->stop.agent));
    return vm->qemu.ran && vm->plan.qemu.agent && qmp_send(vm, "cont") &&
           agent_call(vm, "guest-shutdown", agent_answered, vm, &vm->stop.agent) >= 0;
}

static bool rung_acpi(struct vm *vm)
{
    FAILPOINT("shim.rung-acpi");
    /* A guest that never ran, or stands still, can't hear the button; a paused one is let run for it. */
    return vm->qemu.ran && qmp_send(vm, "cont") && qmp_send(vm, "system_powerdown");
}

static bool rung_quit(struct vm *vm)
{
    FAILPOINT("shim.rung-quit");
    return qmp_send(vm, "quit");
}

int vm_signal(struct vm *vm, int sig)
{
    if (vm->qemu.ref.pid == 0)
        return -ESRCH;
    return pidref_kill(&vm->qemu.ref, sig);
}

static bool rung_term(struct vm *vm)
{
    FAILPOINT("shim.rung-term");
    vm->stop.deadly = true;
    return vm_signal(vm, SIGTERM) >= 0;
}

static bool rung_kill(struct vm *vm)
{
    FAILPOINT("shim.rung-kill");
    vm->stop.deadly = true;
    /* The whole group: helpers that QEMU started die with it. The leader is alive or our zombie, so the group's number is its own. */
    if (vm->qemu.ref.pid != 0 && pidref_exited(&vm->qemu.ref) == 0)
        (void)kill(-vm->qemu.ref.pid, SIGKILL);
    return vm_signal(vm, SIGKILL) >= 0;
}

/* All of the tree at once: a SIGKILL that can't be outrun by forking. */
static bool rung_cgroup(struct vm *vm)
{
    FAILPOINT("shim.rung-cgroup");
    vm->stop.deadly = true;
    return tree_kill_cgroup(&vm->tree);
}

/* false: this rung can't be taken now, the next one is tried at once. */
static bool (*const rungs[])(struct vm *vm) = {
    [RUNG_AGENT] = rung_agent, [RUNG_ACPI] = rung_acpi, [RUNG_QUIT] = rung_quit,
    [RUNG_TERM] = rung_term,   [RUNG_KILL] = rung_kill, [RUNG_CGROUP] = rung_cgroup,
};

static uint64_t rung_wait_ms(const struct vm *vm, const struct plan_rung *rung)
{
    return rung->kind == RUNG_ACPI && vm->stop.timeout_ms > 0 ? vm->stop.timeout_ms : rung->wait_ms;
}

static void on_next(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, stop.next);

    ev_timer_stop(ev, &vm->stop.repeat);
    vm->stop.rung++;
    take_rung(vm);
}

static void on_repeat(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, stop.repeat);

    (void)rungs[vm->plan.stop[vm->stop.rung].kind](vm);
}

static void start_timers(struct vm *vm, const struct plan_rung *rung)
{
    double repeat = (double)rung->repeat_ms / 1000.0;

    ev_timer_init(&vm->stop.next, on_next, (double)rung_wait_ms(vm, rung) / 1000.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->stop.next);
    ev_timer_init(&vm->stop.repeat, on_repeat, repeat, repeat);
    if (rung->repeat_ms > 0)
        ev_timer_start(loop_ev(vm->loop), &vm->stop.repeat);
}

static void take_rung(struct vm *vm)
{
    while ((size_t)vm->stop.rung < vm->plan.n_stop) {
        const struct plan_rung *rung = &vm->plan.stop[vm->stop.rung];
        const char *name = enum_to_string(&rung_kind_names, rung->kind);
        uint64_t wait_ms = rung_wait_ms(vm, rung);

        if (rungs[rung->kind](vm)) {
            vm_tell(vm, EVENT_STOP_RUNG, json_pack("{ss sI}", "rung", name, "wait_ms", (json_int_t)wait_ms), "%s, up to %.1f s", name,
                    (double)wait_ms / 1000.0);
            start_timers(vm, rung);
            return;
        }
        vm->stop.rung++;
    }
    vm_tell(vm, EVENT_STOP_RUNG, NULL, "every rung was tried; waiting for QEMU to end");
}

static void on_no_monitor(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, stop.monitor);

    vm_tell(vm, EVENT_SHIM, NULL, "QEMU's monitor doesn't answer: stopping without it");
    take_rung(vm);
}

/* Without a monitor there is no asking a guest: its stop would begin with SIGTERM for no better reason than that we came a moment ago. */
static bool may_wait_for_monitor(const struct vm *vm)
{
    return vm->qemu.ran && vm->qemu.qmp && !vm->qemu.qmp_ready && !vm->qemu.qmp_closed && (size_t)vm->stop.rung < vm->plan.n_stop &&
           vm->plan.stop[vm->stop.rung].kind < RUNG_TERM;
}

static void stop_timers(struct vm *vm)
{
    ev_timer_stop(loop_ev(vm->loop), &vm->stop.next);
    ev_timer_stop(loop_ev(vm->loop), &vm->stop.repeat);
    ev_timer_stop(loop_ev(vm->loop), &vm->stop.monitor);
}

void vm_ladder_begin(struct vm *vm)
{
    snapshot_vm_stops(vm);
    stop_timers(vm); /* libev's heap doesn't survive an active timer's being initialized */
    /* A SIGSTOPped QEMU can't hear anything. */
    (void)vm_signal(vm, SIGCONT);
    if (!may_wait_for_monitor(vm)) {
        take_rung(vm);
        return;
    }
    ev_timer_init(&vm->stop.monitor, on_no_monitor, MONITOR_WAIT_MS / 1000.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->stop.monitor);
}

void vm_ladder_monitor_ready(struct vm *vm)
{
    if (!ev_is_active(&vm->stop.monitor))
        return;
    ev_timer_stop(loop_ev(vm->loop), &vm->stop.monitor);
    take_rung(vm);
}

void vm_ladder_force(struct vm *vm)
{
    int first = 0;

    while ((size_t)first < vm->plan.n_stop && vm->plan.stop[first].kind < RUNG_TERM)
        first++;
    if (vm->stop.rung >= first && vm->stop.deadly)
        return;
    vm->stop.rung = first;
    vm_ladder_begin(vm);
}

void vm_stop_now(struct vm *vm, const char *why)
{
    vm->stop.asked = true;
    vm_handle(vm, VM_STOP, why);
    if (vm->state == STATE_STOPPING && vm->qemu.ref.pid != 0)
        vm_ladder_force(vm);
}

void vm_ladder_end(struct vm *vm)
{
    agent_call_free(steal_ptr(&vm->stop.agent));
    stop_timers(vm);
}
