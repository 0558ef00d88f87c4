#include "shim/health.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "shim/probe.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

struct watch {
    struct vm *vm;
    const struct plan_probe *probe;
    ev_timer interval;
    struct probe_attempt *attempt;
    struct deferred bury;
    uint64_t failures; /* in a row, those of the start period left out */
    uint64_t last_at;  /* real time, 0: never */
    bool green;        /* was well at least once in this incarnation */
    bool last_well;
    char why[160]; /* the last failure */
};

struct health {
    uint64_t incarnation; /* the one the counts belong to */
    uint64_t began_us;    /* monotonic: the guest began to run */
    enum vm_health shown;
    size_t n;
    struct watch watches[];
};

static enum vm_health judge(const struct health *h)
{
    enum vm_health all = HEALTH_HEALTHY;

    for (size_t i = 0; i < h->n; i++) {
        const struct watch *w = &h->watches[i];

        if (w->failures >= w->probe->retries)
            return HEALTH_UNHEALTHY;
        if (!w->green)
            all = HEALTH_STARTING;
    }
    return all;
}

enum vm_health health_now(const struct vm *vm) { return vm->health ? vm->health->shown : HEALTH_NONE; }

static void act(struct vm *vm, const struct watch *w)
{
    switch ((enum health_action)w->probe->action) {
    case HEALTH_ACTION_NONE:
        return;
    case HEALTH_ACTION_RESTART:
        vm->stop.for_health = true;
        (void)vm_handle(vm, VM_STOP, w->why);
        return;
    case HEALTH_ACTION_RESET:
        if (vm->qemu.qmp_ready)
            (void)qmp_client_call(vm->qemu.qmp, "system_reset", NULL, QMP_TIMEOUT_MS, NULL, NULL);
        vm->health->incarnation = 0; /* a guest that boots again gets its start period again */
        health_state_changed(vm);
        return;
    }
}

static void show(struct vm *vm, const struct watch *cause)
{
    struct health *h = vm->health;
    enum vm_health now = judge(h);

    if (now == h->shown)
        return;
    h->shown = now;
    log_vm_info(vm->plan.name, "health: %s%s%s", enum_to_string(&vm_health_names, (int)now), now == HEALTH_UNHEALTHY ? ": " : "",
                now == HEALTH_UNHEALTHY ? cause->why : "");
    vm_tell(vm, EVENT_HEALTH,
            json_pack("{ss ss}", "health", enum_to_string(&vm_health_names, (int)now), "probe",
                      enum_to_string(&probe_kind_names, cause->probe->kind)),
            "%s%s%s", enum_to_string(&vm_health_names, (int)now), now == HEALTH_UNHEALTHY ? ": " : "",
            now == HEALTH_UNHEALTHY ? cause->why : "");
    if (now == HEALTH_UNHEALTHY)
        act(vm, cause);
}

static void bury(void *arg)
{
    struct watch *w = arg;

    probe_free(steal_ptr(&w->attempt));
}

static void result(struct watch *w, const char *why)
{
    struct health *h = w->vm->health;
    bool starting = !w->green && clock_mono_us() - h->began_us < w->probe->start_period_ms * 1000;

    if (why && snapshot_holds(w->vm)) /* a guest that stands still for a snapshot can't answer */
        return;
    w->last_at = clock_real_us();
    w->last_well = why == NULL;
    w->why[0] = '\0';
    if (!why) {
        w->green = true;
        w->failures = 0;
    } else {
        (void)snprintf(w->why, sizeof(w->why), "%s: %s", enum_to_string(&probe_kind_names, w->probe->kind), why);
        w->failures += !starting;
    }
    show(w->vm, w);
}

static void on_done(void *arg, const char *why)
{
    struct watch *w = arg;

    /* Freed once the attempt's own callback has returned; the result may end the probing altogether. */
    loop_defer(w->vm->loop, &w->bury, bury, w);
    result(w, why);
}

static void on_interval(struct ev_loop *ev, ev_timer *timer, int revents)
{
    struct watch *w = container_of(timer, struct watch, interval);
    int r;

    if (w->attempt) /* still under way: this turn is left out */
        return;
    r = probe_begin(w->vm, w->probe, on_done, w, &w->attempt);
    if (r != 0)
        result(w, r > 0 ? NULL : r == -ENODATA ? "the pattern hasn't been said" : strerror(-r));
}

static void watch_rest(struct watch *w)
{
    ev_timer_stop(loop_ev(w->vm->loop), &w->interval);
    loop_undefer(&w->bury);
    probe_free(steal_ptr(&w->attempt));
}

static void begin_incarnation(struct vm *vm)
{
    struct health *h = vm->health;

    h->incarnation = vm->incarnation;
    h->began_us = clock_mono_us();
    h->shown = HEALTH_STARTING;
    for (size_t i = 0; i < h->n; i++) {
        struct watch *w = &h->watches[i];
        double interval = (double)w->probe->interval_ms / 1000.0;

        w->failures = w->last_at = 0;
        w->green = w->last_well = false;
        w->why[0] = '\0';
        ev_timer_init(&w->interval, on_interval, interval, interval);
    }
}

static struct health *health_new(struct vm *vm)
{
    struct health *h = calloc(1, sizeof(*h) + vm->plan.n_health * sizeof(h->watches[0]));

    if (!h)
        return NULL;
    h->n = vm->plan.n_health;
    for (size_t i = 0; i < h->n; i++) {
        h->watches[i].vm = vm;
        h->watches[i].probe = &vm->plan.health[i];
    }
    return h;
}

void health_state_changed(struct vm *vm)
{
    bool run = vm->state == STATE_RUNNING;

    if (vm->plan.n_health == 0)
        return;
    if (!vm->health && !(vm->health = health_new(vm))) {
        log_vm_error(vm->plan.name, "out of memory: no health probes");
        return;
    }
    if (!run || vm->health->incarnation != vm->incarnation)
        health_rest(vm);
    if (!run)
        return;
    if (vm->health->incarnation != vm->incarnation)
        begin_incarnation(vm);
    for (size_t i = 0; i < vm->health->n; i++)
        ev_timer_start(loop_ev(vm->loop), &vm->health->watches[i].interval);
}

static json_t *watch_to_wire(const struct watch *w)
{
    char at[CLOCK_TEXT_MAX];

    return json_pack("{ss ss sb sI ss* ss*}", "type", enum_to_string(&probe_kind_names, w->probe->kind), "action",
                     enum_to_string(&health_action_names, w->probe->action), "well", (int)w->last_well, "failures", (json_int_t)w->failures,
                     "at", w->last_at ? clock_format(w->last_at, at) : NULL, "why", w->why[0] ? w->why : NULL);
}

json_t *health_to_wire(const struct vm *vm)
{
    json_t *probes = json_array();

    for (size_t i = 0; vm->health && i < vm->health->n; i++)
        if (json_array_append_new(probes, watch_to_wire(&vm->health->watches[i])) < 0)
            break;
    return json_pack("{ss so}", "health", enum_to_string(&vm_health_names, (int)health_now(vm)), "probes", probes);
}

void health_rest(struct vm *vm)
{
    for (size_t i = 0; vm->health && i < vm->health->n; i++)
        watch_rest(&vm->health->watches[i]);
}

void health_clear(struct vm *vm)
{
    health_rest(vm);
    free(steal_ptr(&vm->health));
}
