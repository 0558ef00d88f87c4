#include "lib/manager/rollout.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/util.h"
#include "lib/manager/planner.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"
#include "lib/manager/wish.h"

enum { RETRY_US = 10 * 1000 * 1000 }; /* while somebody else on the host has what a VM needs */

struct rollout {
    struct manager *manager;
    struct vm *current; /* being restarted; a reference */
    uint64_t turns;     /* given out so far */
    uint64_t next_us;   /* no restart before this */
    ev_timer timer;
    struct deferred next;
};

static const char *const reasons[] = { [ROLLOUT_EDIT] = "its edited spec", [ROLLOUT_IMAGE] = "a newer release of its image" };

static void next(void *arg);

static void on_timer(struct ev_loop *ev, ev_timer *timer, int events) { next(container_of(timer, struct rollout, timer)); }

static void kick(struct rollout *r) { loop_defer(r->manager->loop, &r->next, next, r); }

int rollout_new(struct manager *m)
{
    struct rollout *r = calloc(1, sizeof(*r));

    if (!r)
        return -ENOMEM;
    r->manager = m;
    ev_init(&r->timer, on_timer);
    m->rollout = r;
    return 0;
}

void rollout_free(struct rollout *r)
{
    if (!r)
        return;
    ev_timer_stop(loop_ev(r->manager->loop), &r->timer);
    loop_undefer(&r->next);
    if (r->current)
        vm_unref(r->current);
    free(r);
}

static void sleep_until(struct rollout *r, uint64_t then)
{
    struct ev_loop *ev = loop_ev(r->manager->loop);
    uint64_t now = clock_mono_us();

    ev_timer_stop(ev, &r->timer);
    ev_now_update(ev);
    ev_timer_set(&r->timer, then > now ? (double)(then - now) / 1e6 : 0., 0.);
    ev_timer_start(ev, &r->timer);
}

static void forget_refusal(struct vm *vm)
{
    free(steal_ptr(&vm->restart_refused));
    vm->restart_retry = 0;
}

static void give_up_turn(struct vm *vm)
{
    forget_refusal(vm);
    vm->restart_turn = 0;
}

/* It keeps its turn, and goes on as it is, until what it needs may be free. */
static void postpone(struct plan_request *p)
{
    struct vm *vm = p->vm;

    if (!streq_opt(vm->restart_refused, p->err.text))
        log_vm_warning(vm->name, "not restarted for %s yet, since it could not be started again: %s", reasons[vm->restart_why],
                       p->err.text);
    (void)str_set(&vm->restart_refused, p->err.text);
    vm->restart_retry = p->refusal == REFUSAL_BY_HOST ? clock_mono_us() + RETRY_US : UINT64_MAX;
}

static void end_turn(struct rollout *r, bool restarted)
{
    struct vm *vm = steal_ptr(&r->current);

    if (restarted)
        r->next_us = clock_mono_us() + r->manager->config.watch.restart_interval * 1000;
    vm_unref(vm);
    kick(r);
}

static void restarted(void *arg, struct vm *vm, const struct err *err)
{
    struct rollout *r = arg;

    if (r->current != vm) /* the manager ends */
        return;
    if (err)
        log_vm_warning(vm->name, "not restarted for %s: %s", reasons[vm->restart_why], err->text);
    else
        log_vm_info(vm->name, "restarted for %s", reasons[vm->restart_why]);
    end_turn(r, true);
}

/* It is to come back by the spec it has then, and one restart is all it takes. */
static bool is_moot(const struct vm *vm)
{
    return vm->gone_from_registry || vm->wanted.deleting || vm->wanted.wish != WANTED_RUNNING || (vm->presence == PRESENCE_GONE) ||
           vm->wanted.from > vm->incarnation;
}

/* A paused guest, or one that is being restored, has just been begun or is being saved, is not taken down under its user's hands. */
static bool is_ready(const struct vm *vm)
{
    return vm->presence == PRESENCE_SHIM && vm->answered && !vm->launch && !vm->spec_second && vm->has_spec && vm->snapshots == 0 &&
           (vm->view == STATE_RUNNING || vm->view == STATE_BACKOFF) && !wish_restore_is_due(vm) && !wish_restore_is_open(vm);
}

/* What couldn't be started again isn't stopped in the first place. */
static void planned(struct plan_request *p)
{
    struct rollout *r = p->arg;
    struct vm *vm = p->vm;
    bool same = streq(p->digest, vm->plan_digest);

    if (r->manager->stopping) {
        plan_request_free(p);
        return;
    }
    if (p->r < 0 && p->refusal != REFUSAL_NONE)
        postpone(p);
    else if (p->r < 0)
        log_vm_warning(vm->name, "not restarted for %s, since it could not be started again: %s", reasons[vm->restart_why], p->err.text);
    if (p->r < 0 && p->refusal != REFUSAL_NONE) {
        end_turn(r, false);
    } else if (p->r < 0 || same || is_moot(vm)) {
        give_up_turn(vm);
        end_turn(r, false);
    } else if (!is_ready(vm)) { /* it keeps its turn */
        end_turn(r, false);
    } else {
        uint64_t from = vm->incarnation + 1;
        uint32_t write;

        give_up_turn(vm);
        log_vm_info(vm->name, "is restarted for %s", reasons[vm->restart_why]);
        vm->stop_due = true;
        reconcile_fresh(vm);
        write = wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = from });
        wait_begin_told(vm, &(struct wait_for){ .kind = WAIT_STARTED, .target = from, .written = true, .write = write }, restarted, r);
        vm_changed(vm);
    }
    plan_request_free(p);
}

/* NULL: none can be restarted now; `ret_us` is when one should be looked at again then. */
static struct vm *pick(const struct manager *m, uint64_t *ret_us)
{
    uint64_t now = clock_mono_us();
    struct vm *first = NULL;

    *ret_us = UINT64_MAX;

    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (vm->restart_turn == 0)
            continue;
        if (is_moot(vm))
            give_up_turn(vm);
        else if (vm->restart_retry > now)
            *ret_us = *ret_us < vm->restart_retry ? *ret_us : vm->restart_retry;
        else if (is_ready(vm) && (!first || vm->restart_turn < first->restart_turn))
            first = vm;
    }
    return first;
}

static void next(void *arg)
{
    struct rollout *r = arg;
    struct vm *vm;
    uint64_t then;

    if (r->current || r->manager->stopping)
        return;
    vm = pick(r->manager, &then);
    if (!vm) {
        if (then < UINT64_MAX)
            sleep_until(r, then);
        return;
    }
    if (r->next_us > clock_mono_us()) {
        sleep_until(r, r->next_us);
        return;
    }
    r->current = vm_ref(vm);
    if (plan_request(vm, PLAN_ADMIT, planned, r) < 0) {
        vm_unref(steal_ptr(&r->current));
        r->next_us = clock_mono_us() + r->manager->config.watch.restart_interval * 1000 + 1;
        sleep_until(r, r->next_us);
    }
}

void rollout_add(struct vm *vm, enum rollout_why why)
{
    struct rollout *r = vm->manager->rollout;

    forget_refusal(vm); /* by what is asked for now it may be another matter */
    if (vm->restart_turn == 0) {
        vm->restart_turn = ++r->turns;
        vm->restart_why = (uint8_t)why;
        log_vm_info(vm->name, "%s needs a restart", reasons[why]);
    }
    kick(r);
}

void rollout_drop(struct vm *vm)
{
    if (vm->restart_why != ROLLOUT_EDIT)
        return;
    if (vm->restart_turn)
        log_vm_info(vm->name, "its spec is what it runs by again: not restarted");
    give_up_turn(vm);
}

void rollout_check(struct vm *vm)
{
    if (vm->restart_turn)
        kick(vm->manager->rollout);
}

void rollout_retry(struct manager *m)
{
    bool any = false;

    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        any = any || vm->restart_retry;
        vm->restart_retry = 0; /* what it was refused for is shown until it is known better */
    }
    if (any)
        kick(m->rollout);
}

void rollout_wait(struct manager *m) { m->rollout->next_us = clock_mono_us() + m->config.watch.restart_interval * 1000; }

char *rollout_reason(const struct vm *vm)
{
    static const char *const news[] = { [ROLLOUT_EDIT] = "its spec was edited", [ROLLOUT_IMAGE] = "its image has a newer release" };
    const struct rollout *r = vm->manager->rollout;
    char *text = NULL;

    if (vm->restart_turn == 0)
        return NULL;
    if (vm->restart_refused)
        (void)str_format(&text, "%s: it is not restarted yet, since it could not be started again: %s", news[vm->restart_why],
                         vm->restart_refused);
    else if (vm->snapshots > 0)
        (void)str_format(&text, "%s: it is restarted once its snapshot is taken", news[vm->restart_why]);
    else if (vm->view == STATE_PAUSED)
        (void)str_format(&text, "%s: it is restarted once it is resumed", news[vm->restart_why]);
    else if (r->current && r->current != vm)
        (void)str_format(&text, "%s: it is restarted after %s", news[vm->restart_why], r->current->name);
    else
        (void)str_format(&text, "%s: it is about to be restarted", news[vm->restart_why]);
    return text;
}
