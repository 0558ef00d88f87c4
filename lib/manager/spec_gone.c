#include "lib/manager/spec_gone.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/util.h"
#include "lib/manager/launch_record.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/spec_sync.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

#define GONE_TEXT "its spec is gone"

static bool lives(const struct vm *vm) { return vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch; }

void wish_stop_by_spec(struct vm *vm)
{
    if (vm->wanted.deleting)
        return;
    reconcile_fresh(vm);
    vm->from_next = false;
    vm->stop_due = vm->presence == PRESENCE_SHIM && vm->view != STATE_STOPPING;
    wish_change(vm, &(struct wish_change){ .wish = WANTED_STOPPED, .from = vm->wanted.from, .by_spec = true });
    if (vm->presence == PRESENCE_GONE && !vm->launch && vm->view != VIEW_STOPPED)
        vm_set_view(vm, vm_rest_view(vm), NULL);
    vm_changed(vm);
}

/* ---- what the next manager must know ---- */

struct mark_job {
    struct job job;
    struct vm *vm;
    bool gone;
};

/* That it was seen to be deleted: a folder that is found empty says nothing of the kind. */
static void mark_run(struct job *job)
{
    struct mark_job *mark = container_of(job, struct mark_job, job);
    auto_launch_record struct launch_record record = { 0 };
    int run_vms_fd = mark->vm->manager->run_vms_fd, r;

    r = launch_record_read(run_vms_fd, mark->vm->name, &record);
    if (r < 0 || record.gone == mark->gone)
        return;
    record.gone = mark->gone;
    r = launch_record_write(run_vms_fd, mark->vm->name, &record);
    if (r < 0)
        log_vm_error(mark->vm->name, "can't write %s: %s", FILE_SPEC, strerror(-r));
}

static void mark_done(struct job *job)
{
    struct mark_job *mark = container_of(job, struct mark_job, job);

    vm_unref(mark->vm);
    free(mark);
}

static void mark(struct vm *vm, bool gone)
{
    struct mark_job *mark = calloc(1, sizeof(*mark));

    if (!mark)
        return; /* a next manager begins its own grace, or holds */
    mark->job.run = mark_run;
    mark->job.done = mark_done;
    mark->vm = vm_ref(vm);
    mark->gone = gone;
    worker_add(vm->manager->writer, &mark->job);
}

/* ---- the grace ---- */

static void set_timer(struct manager *m);

static void expire(struct vm *vm)
{
    char file[VM_PATH_MAX];

    vm->gone_until_us = 0;
    if (vm->wanted.deleting) {
        vm->gone = GONE_NO;
        return;
    }
    vm->gone = GONE_STOPPED;
    log_vm_warning(vm->name, "its spec %s has been gone for %.0f s: stopped, its disks stay", specs_file(vm, file),
                   (double)vm->manager->config.watch.delete_grace / 1000.);
    wish_stop_by_spec(vm);
}

static void on_deadline(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct manager *m = container_of(timer, struct manager, gone_timer);
    uint64_t now = clock_boottime_us();

    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (vm->gone == GONE_GRACE && vm->gone_until_us <= now)
            expire(vm);
    }
    set_timer(m);
}

static void set_timer(struct manager *m)
{
    struct ev_loop *ev = loop_ev(m->loop);
    uint64_t first = UINT64_MAX, now = clock_boottime_us();

    map_foreach (m->vms, e) {
        const struct vm *vm = map_value(e);

        if (vm->gone == GONE_GRACE && vm->gone_until_us < first)
            first = vm->gone_until_us;
    }
    ev_timer_stop(ev, &m->gone_timer);
    if (first == UINT64_MAX)
        return;
    ev_init(&m->gone_timer, on_deadline);
    ev_now_update(ev);
    ev_timer_set(&m->gone_timer, first > now ? (double)(first - now) / 1e6 : 0., 0.);
    ev_timer_start(ev, &m->gone_timer);
}

/* Why nobody can say whether it was deleted, or NULL. */
static const char *held_by(const struct vm *vm)
{
    const struct manager *m = vm->manager;

    if (m->specs_lost)
        return m->specs_lost;
    /* Found empty at the start: only what an earlier manager saw deleted was deleted. */
    if (m->specs_empty && !vm->gone_seen)
        return m->specs_empty;
    return NULL;
}

static void review(struct vm *vm)
{
    const char *riddle;
    char file[VM_PATH_MAX];
    bool held;

    if (vm->gone != GONE_GRACE && vm->gone != GONE_HELD)
        return;
    riddle = spec_sync_riddle(vm->manager);
    held = held_by(vm) || riddle;
    if (held == (vm->gone == GONE_HELD) && (held || vm->gone_until_us > 0))
        return;
    vm->gone = held ? GONE_HELD : GONE_GRACE;
    vm->gone_until_us = held ? 0 : clock_boottime_us() + vm->manager->config.watch.delete_grace * 1000;
    if (held)
        log_vm_warning(vm->name, "its spec %s is gone, and it is not stopped for that: %s%s", specs_file(vm, file),
                       riddle ? "it may be in a file that can't be read, " : "", riddle ? riddle : held_by(vm));
    else
        log_vm_warning(vm->name, "its spec %s is gone: it is stopped in %.0f s unless it comes back", specs_file(vm, file),
                       (double)vm->manager->config.watch.delete_grace / 1000.);
    if (!held && lives(vm) && !vm->gone_seen) {
        vm->gone_seen = true;
        mark(vm, true);
    }
}

void spec_gone_begin(struct vm *vm)
{
    if (vm->gone != GONE_NO)
        return;
    vm->gone = GONE_GRACE;
    vm->gone_until_us = 0;
    review(vm);
    set_timer(vm->manager);
}

void spec_gone_called_off(struct vm *vm)
{
    if (vm->gone == GONE_NO)
        return;
    if (vm->gone == GONE_GRACE)
        log_vm_info(vm->name, "its spec is back: it isn't stopped");
    vm->gone = GONE_NO;
    vm->gone_until_us = 0;
    if (vm->gone_seen && lives(vm))
        mark(vm, false);
    vm->gone_seen = false;
    set_timer(vm->manager);
}

void spec_gone_review(struct manager *m)
{
    map_foreach (m->vms, e)
        review(map_value(e));
    set_timer(m);
}

static int held_reason(const struct vm *vm, char **ret)
{
    const char *held = held_by(vm), *riddle = held ? NULL : spec_sync_riddle(vm->manager);

    if (riddle)
        return str_format(ret, GONE_TEXT ", and that changes nothing: %s can't be read and may be it", riddle);
    return str_format(ret, GONE_TEXT ", and that changes nothing: %s", held ? held : "it may come back");
}

char *spec_gone_reason(const struct vm *vm)
{
    uint64_t now = clock_boottime_us(), left = vm->gone_until_us > now ? vm->gone_until_us - now : 0;
    bool stopped = vm->gone == GONE_STOPPED;
    char *text = NULL;

    /* Of a stop that an earlier manager saw to only the wish is left. */
    if (vm->gone == GONE_NO)
        stopped = !vm->has_spec && vm->wanted.by_spec && vm->wanted.wish == WANTED_STOPPED;
    if (vm->gone == GONE_HELD)
        (void)held_reason(vm, &text);
    else if (vm->gone == GONE_GRACE && lives(vm))
        (void)str_format(&text, GONE_TEXT ": stops in %llu s", (unsigned long long)((left + 999999) / 1000000));
    else if (vm->gone == GONE_GRACE || (stopped && !vm->reason))
        (void)str_set(&text, GONE_TEXT);
    return text;
}

void spec_gone_end(struct manager *m) { ev_timer_stop(loop_ev(m->loop), &m->gone_timer); }
