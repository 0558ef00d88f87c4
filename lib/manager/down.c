#include "lib/manager/down.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/manager/adopt.h"
#include "lib/manager/events.h"
#include "lib/manager/gpus.h"
#include "lib/manager/link.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

struct down_job {
    struct job job;
    struct vm *vm;
    struct wanted wanted; /* a copy: seen and seen_boot are what is asked of it */
    uint64_t incarnation, event_seq;
    bool may_relaunch;
    /* found */
    struct records records;
    struct exit_record exit;
    bool explained, rebooted, torn_down;
    int r;
};

static uint64_t highest(const struct down_facts *f)
{
    uint64_t n = f->incarnation;

    if (f->wanted->seen > n)
        n = f->wanted->seen;
    if (f->records->has_status && f->records->status.incarnation > n)
        n = f->records->status.incarnation;
    return n;
}

static bool was_rebooted(const struct down_facts *f)
{
    const char *then = f->records->has_status ? f->records->status.boot_id : f->wanted->seen_boot;

    return then && !streq(then, f->boot_id);
}

int down_explain(const struct down_facts *f, struct exit_record *ret_exit, bool *ret_rebooted)
{
    uint64_t incarnation = highest(f), seq = f->event_seq;
    bool rebooted = was_rebooted(f);
    struct exit_record exit = { .schema = EXIT_SCHEMA, .incarnation = incarnation, .kind = EXIT_UNKNOWN, .code = -1 };

    if (f->records->unclear || incarnation == 0 || (f->records->has_exit && f->records->exit.incarnation >= incarnation))
        return 0;
    if (f->records->has_status && f->records->status.event_seq > seq)
        seq = f->records->status.event_seq;
    exit.at = clock_real_us();
    exit.final = !rebooted && !f->may_relaunch;
    exit.event_seq = seq + 1; /* the event that tells of it */
    if (str_set(&exit.name, f->name) < 0 || str_set(&exit.boot_id, f->boot_id) < 0 ||
        str_set(&exit.detail, rebooted ? "the host was rebooted" : "its shim and QEMU are gone") < 0) {
        exit_clear(&exit);
        return -ENOMEM;
    }
    *ret_exit = exit;
    *ret_rebooted = rebooted;
    return 1;
}

/* The shim that would have removed it is gone, and so is all that was in it: a populated one can't be removed. */
static void remove_cgroup(const struct records *records)
{
    const char *folder = records->has_status ? records->status.cgroup : NULL;

    if (folder && has_prefix(folder, CGROUP_MOUNT "/") && strstr(folder, "/" CGROUP_PREFIX))
        (void)rmdir(folder);
}

static void run(struct job *job)
{
    struct down_job *d = container_of(job, struct down_job, job);
    struct manager *m = d->vm->manager;
    const struct record_dirs dirs = { m->run_vms_fd, m->state_vms_fd };
    struct down_facts facts = {
        .name = d->vm->name,
        .boot_id = m->boot_id,
        .records = &d->records,
        .wanted = &d->wanted,
        .incarnation = d->incarnation,
        .event_seq = d->event_seq,
        .may_relaunch = d->may_relaunch,
    };
    int r;

    d->r = records_read(&dirs, d->vm->name, &d->records);
    if (d->r < 0)
        return;
    if (d->records.has_status && !d->records.unclear && records_qemu_lives(&d->records.status, m->boot_id)) {
        d->torn_down = true; /* it has no end yet that could be explained */
        return;
    }
    remove_cgroup(&d->records);
    r = down_explain(&facts, &d->exit, &d->rebooted);
    d->explained = r > 0;
    /* Nothing new may be launched on an end that was told nowhere, or it would be told twice or never. */
    d->r = r > 0 ? records_write_exit(&dirs, d->vm->name, &d->exit) : r;
}

/* The event of an end that no shim told us of. */
static void tell(struct vm *vm, const struct exit_record *exit)
{
    auto_free char *what = exit_describe(exit);
    char at[CLOCK_TEXT_MAX];
    auto_json json_t *event = NULL;

    event =
        json_pack("{s:I, s:s, s:s, s:I, s:o, s:o*}", "seq", (json_int_t)exit->event_seq, "at", clock_format(exit->at, at), "type", "exit",
                  "incarnation", (json_int_t)exit->incarnation, "text", json_text(what ? what : exit->detail), "data", exit_to_wire(exit));
    if (event)
        events_received(vm, event);
}

static void clear_living(struct vm *vm)
{
    vm->shim_pid = vm->qemu_pid = 0;
    vm->health = HEALTH_NONE;
    vm->plan_digest[0] = '\0';
    vm->answered = vm->probing = false;
    vm->connects = 0;
    vm->stop_sent = 0;
    vm->stop_due = false;
}

static void show_end(struct vm *vm, const char *unclear)
{
    enum vm_view view = vm_rest_view(vm);
    auto_free char *what = NULL;

    if (vm->unclear) {
        const char *why = unclear ? unclear : vm->reason;

        vm_set_view(vm, VIEW_UNKNOWN, why ? "%s" : NULL, why);
        return;
    }
    if (wish_restore_is_open(vm)) {
        const struct wanted_restore *restore = &vm->wanted.restore;
        const char *detail = vm->last_exit ? vm->last_exit->detail : NULL;

        vm_set_view(vm, (enum vm_view)STATE_FAILED, "the restore from %s/%s failed: %s", restore->vm, restore->snapshot,
                    detail ? detail : "its shim ended before the guest ran");
        return;
    }
    if (vm->launch_error && view != VIEW_STOPPED) {
        vm_set_view(vm, (enum vm_view)STATE_FAILED, "%s", vm->launch_error);
        return;
    }
    if (view != VIEW_STOPPED && vm->last_exit)
        what = exit_describe(vm->last_exit);
    if (what && vm->last_exit->detail)
        vm_set_view(vm, view, "%s: %s", what, vm->last_exit->detail);
    else
        vm_set_view(vm, view, what ? "%s" : NULL, what);
}

/* The VM is gone, and why is known. */
static void down_done(struct vm *vm, const char *unclear)
{
    clear_living(vm);
    vm->started_us = 0;
    vm->presence = PRESENCE_GONE;
    gpus_retry(vm->manager->gpus, vm->name);
    show_end(vm, unclear);
    wish_default(vm);
    if (vm->from_next && vm->wanted.wish == WANTED_RUNNING && vm->wanted.from <= vm->incarnation)
        wish_begin_at(vm, vm->incarnation + 1);
    vm->from_next = false;
    adopt_settled(vm);
    vm_changed(vm);
}

static void take(struct down_job *d)
{
    struct vm *vm = d->vm;
    const struct down_facts facts = { .records = &d->records, .wanted = &d->wanted, .incarnation = vm->incarnation };
    struct exit_record *exit = d->explained ? &d->exit : d->records.has_exit ? &d->records.exit : NULL;

    vm->incarnation = highest(&facts);
    if (d->records.has_status && !d->records.unclear)
        wish_note_state(vm, d->records.status.incarnation, (enum vm_state)d->records.status.state);
    if (exit) {
        if (exit->incarnation > vm->incarnation)
            vm->incarnation = exit->incarnation;
        if (d->explained)
            log_vm_warning(vm->name, "incarnation %llu ended unexplained: %s", (unsigned long long)exit->incarnation, exit->detail);
        if (d->explained && !d->rebooted && !vm->from_next)
            reconcile_failure(vm);
        /* Its number is the newest of that life: one we have seen, unless nobody was there to see it. */
        if (exit->event_seq > vm->event_seq)
            tell(vm, exit);
        (void)vm_set_exit_take(vm, exit);
    }
    if (d->records.unclear) {
        vm->unclear = true;
        log_vm_error(vm->name, "%s", d->records.why);
    }
    down_done(vm, d->records.why);
}

static void done(struct job *job)
{
    struct down_job *d = container_of(job, struct down_job, job);
    struct vm *vm = d->vm;

    if (vm->presence != PRESENCE_CHECKING || vm->gone_from_registry) {
        /* somebody found it alive meanwhile */
    } else if (d->torn_down) {
        vm->qemu_pid = (pid_t)d->records.status.qemu.pid;
        vm_set_view(vm, (enum vm_view)STATE_STOPPING, "QEMU (process %d) has ended, and the kernel is still taking it down",
                    (int)vm->qemu_pid);
        vm_timer_start(vm, TIMER_LOOK, LOOK_TORN_DOWN_MS);
        adopt_settled(vm);
        vm_changed(vm);
    } else if (d->r < 0) {
        vm_set_view(vm, VIEW_UNKNOWN, "its end can't be written down: %s", strerror(-d->r));
        vm_timer_start(vm, TIMER_LOOK, LOOK_AGAIN_MS);
        adopt_settled(vm);
        vm_changed(vm);
    } else {
        take(d);
    }
    records_clear(&d->records);
    exit_clear(&d->exit);
    wanted_clear(&d->wanted);
    vm_unref(vm);
    free(d);
}

static struct down_job *down_job_new(struct vm *vm)
{
    struct down_job *d = calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    d->job.run = run;
    d->job.done = done;
    d->wanted.seen = vm->wanted.seen;
    if (str_set(&d->wanted.seen_boot, vm->wanted.seen_boot) < 0) {
        free(d);
        return NULL;
    }
    d->incarnation = vm->incarnation;
    d->event_seq = vm->event_seq;
    d->may_relaunch =
        vm->wanted.wish == WANTED_RUNNING && vm->policy != RESTART_NEVER && vm->failures < RELAUNCH_ATTEMPTS && !wish_restore_is_open(vm);
    d->vm = vm_ref(vm);
    return d;
}

void down_begin(struct vm *vm)
{
    struct down_job *d;

    /* The usual end: the shim told it, and that it is final, before it left. */
    if (vm_exit_known(vm) && vm->last_exit->final) {
        down_done(vm, NULL);
        return;
    }
    vm->presence = PRESENCE_CHECKING;
    d = down_job_new(vm);
    if (!d) {
        vm_timer_start(vm, TIMER_LOOK, LOOK_AGAIN_MS);
        return;
    }
    worker_add(vm->manager->reader, &d->job);
}
