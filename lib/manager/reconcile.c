#include "lib/manager/reconcile.h"

#include <sys/random.h>

#include "lib/base/backoff.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/manager/act.h"
#include "lib/manager/forget.h"
#include "lib/manager/gpu_move.h"
#include "lib/manager/hold.h"
#include "lib/manager/launch.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

static enum action decide_supervised(const struct facts *f)
{
    bool down = f->wish == WANTED_STOPPED || f->incarnation < f->from;

    if (!down || !f->answered || !f->saved)
        return ACTION_NONE;
    if (f->state == STATE_EXITED || f->state == STATE_FAILED)
        return ACTION_NONE; /* it is leaving by itself */
    if (f->stop_due || (f->state != STATE_STOPPING && f->stop_sent != f->incarnation))
        return ACTION_STOP;
    return ACTION_NONE;
}

static enum action decide_gone(const struct facts *f)
{
    if (f->wish == WANTED_STOPPED)
        return f->deleting && f->saved ? ACTION_FORGET : ACTION_NONE;
    if (f->unclear || !f->has_spec || f->gave_up || f->draining)
        return ACTION_NONE;
    /* A start needn't wait for the disk. A restore does: what the disk says in its place may be a boot. */
    if (f->incarnation < f->from)
        return f->restore_due && !f->saved ? ACTION_NONE : ACTION_LAUNCH;
    if (f->restore_open) /* it failed: a fresh boot would be something else than what was asked for */
        return ACTION_NONE;
    /* The wish was fulfilled. If that life ended for good by its own policy, that was its right; if more was to come
     * and nobody is left to do it, we do. */
    return f->exit_known && !f->exit_final ? ACTION_LAUNCH : ACTION_NONE;
}

enum action decide(const struct facts *f)
{
    if (f->launching)
        return ACTION_NONE;
    switch (f->presence) {
    case PRESENCE_CHECKING:
        return ACTION_NONE;
    case PRESENCE_ORPHAN:
        return f->adopt_later ? ACTION_NONE : ACTION_ADOPT;
    case PRESENCE_SHIM:
        return decide_supervised(f);
    case PRESENCE_GONE:
        return decide_gone(f);
    }
    return ACTION_NONE;
}

static struct facts facts_of(const struct vm *vm)
{
    return (struct facts){
        .presence = vm->presence,
        .draining = vm->manager->draining > 0,
        .launching = vm->launch || vm->gpu_move,
        .adopt_later = vm->timer_use == TIMER_LOOK,
        .wish = vm->wanted.wish,
        .from = vm->wanted.from,
        .deleting = vm->wanted.deleting,
        .saved = vm->write_done == vm->write_issued && !vm->unsaved,
        .has_spec = vm->has_spec && !vm->spec_second,
        .unclear = vm->unclear,
        .gave_up = vm->gave_up,
        .incarnation = vm->incarnation,
        .answered = vm->answered && vm->view < STATE_COUNT,
        .state = vm->view,
        .stop_due = vm->stop_due,
        .stop_sent = vm->stop_sent,
        .exit_known = vm_exit_known(vm),
        .exit_final = vm->last_exit && vm->last_exit->final,
        .restore_due = wish_restore_is_due(vm),
        .restore_open = wish_restore_is_open(vm),
    };
}

static uint32_t random_bits(void)
{
    uint32_t bits = 0;

    /* Jitter only: without entropy there is simply none. */
    if (getrandom(&bits, sizeof(bits), GRND_NONBLOCK) < 0)
        return 0;
    return bits;
}

/* How long a launch of our own accord has to wait: back-off after failures, and a turn after the others (start_interval). */
static uint64_t launch_delay(struct vm *vm)
{
    struct manager *m = vm->manager;
    uint64_t ms = 0, now;

    if (vm->failures > 0) {
        struct backoff backoff = {
            .delay_ms = RELAUNCH_DELAY_MS,
            .max_delay_ms = RELAUNCH_MAX_MS,
            .attempt = vm->failures - 1u,
        };

        if (!backoff_next(&backoff, random_bits(), &ms))
            ms = RELAUNCH_MAX_MS;
    }
    if (m->config.start_interval == 0 || vm->waiters)
        return ms;
    now = clock_mono_us();
    if (m->next_start_us > now + ms * 1000)
        ms = (m->next_start_us - now) / 1000;
    m->next_start_us = now + (ms + m->config.start_interval) * 1000;
    return ms;
}

static void act_launch(struct vm *vm)
{
    uint64_t ms;

    if (vm->timer_use == TIMER_RELAUNCH)
        return;
    ms = launch_delay(vm);
    if (ms == 0) {
        launch_start(vm);
        return;
    }
    vm_timer_start(vm, TIMER_RELAUNCH, ms);
    if (vm->failures > 0)
        vm_set_view(vm, (enum vm_view)STATE_BACKOFF, "start %u of %u in %.1f s%s%s", vm->failures, RELAUNCH_ATTEMPTS, (double)ms / 1000.,
                    vm->reason ? ", last: " : "", vm->reason ? vm->reason : "");
    else
        vm_set_view(vm, (enum vm_view)STATE_PREPARING, "waiting for its turn");
}

void reconcile_vm(struct vm *vm)
{
    struct facts facts;
    enum action action;

    if (vm->manager->stopping || vm->gone_from_registry)
        return;
    if (vm->wanted.wish != WANTED_RUNNING || vm->manager->draining)
        launch_call_off(vm);
    hold_note(vm);
    facts = facts_of(vm);
    action = decide(&facts);
    if (action != ACTION_LAUNCH && vm->timer_use == TIMER_RELAUNCH) {
        vm_timer_stop(vm);
        vm_set_view(vm, vm_rest_view(vm), NULL);
    }
    switch (action) {
    case ACTION_NONE:
        if (vm->presence == PRESENCE_GONE)
            gpu_move_settle(vm);
        break;
    case ACTION_LAUNCH:
        act_launch(vm);
        break;
    case ACTION_STOP:
        act_stop(vm);
        break;
    case ACTION_FORGET:
        gpu_move_settle(vm);
        forget_start(vm);
        break;
    case ACTION_ADOPT:
        launch_adopt(vm);
        break;
    }
}

void reconcile_relaunch(struct vm *vm)
{
    struct facts facts = facts_of(vm);

    if (!vm->manager->stopping && decide(&facts) == ACTION_LAUNCH)
        launch_start(vm);
}

void reconcile_failure(struct vm *vm)
{
    if (vm->started_us && clock_boottime_us() - vm->started_us > (uint64_t)RELAUNCH_RESET_MS * 1000)
        vm->failures = 0;
    if (vm->failures >= RELAUNCH_ATTEMPTS) {
        vm->gave_up = true;
        log_vm_error(vm->name, "gave up after %u starts in vain", vm->failures);
        return;
    }
    vm->failures++;
}

void reconcile_fresh(struct vm *vm)
{
    vm->failures = 0;
    vm->gave_up = false;
    vm->blocked = false;
    vm->unclear = false;
    if (vm->timer_use == TIMER_RELAUNCH)
        vm_timer_stop(vm);
}
