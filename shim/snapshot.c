#include "shim/snapshot.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/json.h"
#include "shim/ram.h"
#include "shim/restore.h"
#include "shim/snapshot_disks.h"
#include "shim/snapshot_job.h"
#include "shim/vm.h"

/* For each of QEMU's answers while the guest stands still. */
enum { QEMU_TIMEOUT_MS = 30 * 1000 };

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents);

static int call_fd(struct snapshot_job *job, const char *command, json_t *arguments_consume, int fd,
                   void (*done)(void *, const struct qmp_result *))
{
    auto_json json_t *arguments = arguments_consume;

    ev_timer_again(loop_ev(job->vm->loop), &job->deadline);
    if (!job->vm->qemu.qmp_ready)
        return -ENOTCONN;
    return qmp_client_call_fd(job->vm->qemu.qmp, command, arguments, fd, &(struct qmp_done){ 0, done, job->vm });
}

static void call(struct snapshot_job *job, const char *command, json_t *arguments_consume, void (*done)(void *, const struct qmp_result *))
{
    int r = call_fd(job, command, arguments_consume, -1, done);

    if (r < 0) {
        err_set_errno(&job->err, -r, "no-monitor", "can't ask QEMU for %s", command);
        snapshot_fail(job);
    }
}

/* The job that this answer is for, or NULL: it was called off meanwhile, or this ends it. */
static struct snapshot_job *answered(void *arg, const struct qmp_result *r, enum snapshot_step step, const char *what)
{
    struct vm *vm = arg;
    struct snapshot_job *job = vm->snapshot;

    if (!job || job->step != step)
        return NULL;
    ev_timer_stop(loop_ev(vm->loop), &job->deadline);
    if (r->failure == 0)
        return job;
    job->refused = r->failure == -EREMOTEIO;
    err_set(&job->err, EIO, "qemu", "QEMU refused %s: %s", what, r->text);
    snapshot_fail(job);
    return NULL;
}

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct snapshot_job *job = container_of(w, struct snapshot_job, deadline);

    err_set(&job->err, ETIMEDOUT, "timed-out", "QEMU did not answer within %d s", QEMU_TIMEOUT_MS / 1000);
    snapshot_fail(job);
}

static void stop_guest(struct snapshot_job *job);

static void on_woken(struct ev_loop *ev, ev_async *w, int revents)
{
    struct snapshot_job *job = container_of(w, struct snapshot_job, woken);

    if (!job->save)
        return;
    if (save_done(job->save) && !job->task) {
        if (job->step == SNAPSHOT_ENDING) {
            snapshot_finish_failure(job);
        } else if (job->step == SNAPSHOT_COPY) {
            snapshot_show_copy(job);
            snapshot_copied(job);
        } else {
            (void)save_error(job->save, &job->err);
            snapshot_fail(job);
        }
    } else if (job->step == SNAPSHOT_PROTECT && save_protected(job->save)) {
        FAILPOINT("shim.snapshot-protecting");
        stop_guest(job);
    } else if (job->step == SNAPSHOT_COPY) {
        snapshot_show_copy(job);
    }
}

void snapshot_save_event(void *arg)
{
    struct snapshot_job *job = arg;

    ev_async_send(loop_ev(job->vm->loop), &job->woken);
}

static void copy(struct snapshot_job *job)
{
    job->step = SNAPSHOT_COPY;
    save_copy(job->save);
    FAILPOINT("shim.snapshot-copying");
}

static void resumed(struct vm *vm, const char *why)
{
    struct snapshot_job *job = vm->snapshot;

    if (!job || job->step != SNAPSHOT_CONT)
        return;
    if (why) {
        err_set(&job->err, EIO, "qemu", "the guest could not be let run on: %s", why);
        snapshot_fail(job);
        return;
    }
    job->held = false;
    job->record.pause_us = clock_mono_us() - job->stopped_us;
    FAILPOINT("shim.snapshot-after-cont");
    snapshot_disks_released(job);
    copy(job);
}

/* ---- while the guest stands still ---- */

/* Which pages are the image's, exactly: nobody writes now. */
static int take_missing(struct snapshot_job *job)
{
    auto_free uint64_t *bitmap = NULL;
    size_t n = 0;
    int r;

    if (!job->missing)
        return 0;
    if (!ram_is_lazy(job->vm)) { /* it has been loaded to the last page meanwhile */
        memset(job->missing, 0, job->n_missing * sizeof(*job->missing));
        return 0;
    }
    r = pager_missing(job->vm->ram->source.pager, &bitmap, &n);
    if (r < 0 || n != job->n_missing)
        return r < 0 ? r : -EPROTO;
    memcpy(job->missing, bitmap, n * sizeof(*bitmap));
    return 0;
}

static void state_saved(struct snapshot_job *job)
{
    int r;

    job->saved = true;
    FAILPOINT("shim.snapshot-after-state");
    r = take_missing(job);
    if (r >= 0 && job->live)
        r = save_freeze(job->save);
    if (r < 0) {
        if (save_error(job->save, &job->err) == 0)
            err_set_errno(&job->err, -r, "no-freeze", "can't freeze the guest's memory");
        snapshot_fail(job);
        return;
    }
    if (!job->live || !job->was_running) {
        job->held = !job->live; /* protected, it may be resumed at any time */
        copy(job);
        return;
    }
    job->step = SNAPSHOT_CONT;
    snapshot_run_on(job->vm, resumed);
}

static void on_not_saved(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_STATE, "to save the device state");
    const char *why = job ? json_string_value(json_object_get(json_object_get(r->reply, "return"), "error-desc")) : NULL;

    if (!job)
        return;
    err_set(&job->err, EIO, "qemu", "QEMU could not save the device state: %s", why ? why : "it doesn't say why");
    snapshot_fail(job);
}

void snapshot_migration(struct vm *vm, const char *status)
{
    struct snapshot_job *job = vm->snapshot;

    if (!job || job->step != SNAPSHOT_STATE)
        return;
    if (streq(status, "completed")) {
        ev_timer_stop(loop_ev(vm->loop), &job->deadline);
        state_saved(job);
    } else if (streq(status, "failed") || streq(status, "cancelled")) {
        call(job, "query-migrate", NULL, on_not_saved);
    }
}

static void on_migrate(void *arg, const struct qmp_result *r)
{
    struct vm *vm = arg;
    struct snapshot_job *job = vm->snapshot;

    /* Its end comes as an event, which may have been here first. */
    if (job && job->step == SNAPSHOT_STATE && r->failure != 0)
        (void)answered(arg, r, SNAPSHOT_STATE, "to save the device state");
}

static void on_state_file(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_STATE, "to take the file for the device state");

    if (!job)
        return;
    job->migrating = true;
    call(job, "migrate", json_pack("{ss}", "uri", "fd:snapshot"), on_migrate);
}

static void on_disks_frozen(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_FREEZE_DISKS, "to freeze the disks");
    int fd;

    if (!job)
        return;
    snapshot_disks_frozen(job);
    job->step = SNAPSHOT_STATE;
    fd = call_fd(job, "getfd", json_pack("{ss}", "fdname", "snapshot"), job->state_fd, on_state_file);
    if (fd < 0) {
        err_set_errno(&job->err, -fd, "no-monitor", "can't hand QEMU the file for the device state");
        snapshot_fail(job);
    }
}

static void freeze_disks(struct snapshot_job *job)
{
    json_t *transaction = snapshot_disks_transaction(job);

    job->step = SNAPSHOT_FREEZE_DISKS;
    if (transaction)
        call(job, "transaction", transaction, on_disks_frozen);
    else
        on_disks_frozen(job->vm, &(struct qmp_result){ 0 });
}

static void on_stopped(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_STOP, "to stop the guest");

    if (!job)
        return;
    FAILPOINT("shim.snapshot-after-stop");
    freeze_disks(job);
}

static void on_capabilities(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_STOP, "migration without RAM");

    if (!job)
        return;
    job->stopped_us = clock_mono_us();
    job->was_running = job->vm->state == STATE_RUNNING; /* it may have been paused or resumed since it began, but not from here on */
    job->held = true;
    call(job, "stop", NULL, on_stopped);
}

/* What can be done before is: here the clock begins to count. */
static void stop_guest(struct snapshot_job *job)
{
    int r = snapshot_pending_write(job, job->vm->state == STATE_RUNNING);

    job->step = SNAPSHOT_STOP;
    if (r < 0) {
        err_set_errno(&job->err, -r, "no-record", "can't write down that a snapshot is under way");
        snapshot_fail(job);
        return;
    }
    snapshot_progress(job, "state", 0, 0);
    call(job, "migrate-set-capabilities", migration_capabilities(), on_capabilities);
}

/* ---- the beginning ---- */

void snapshot_disks_ready(struct snapshot_job *job)
{
    int r;

    if (!job->live) {
        stop_guest(job);
        return;
    }
    job->step = SNAPSHOT_PROTECT;
    r = take_missing(job); /* what is brought in from now on only makes it claim too much, until it is taken again */
    if (r < 0) {
        err_set_errno(&job->err, -r, "no-protect", "can't tell which pages the guest has");
        snapshot_fail(job);
        return;
    }
    save_protect(job->save);
}

void snapshot_disks_failed(struct snapshot_job *job)
{
    if (job->step != SNAPSHOT_ENDING)
        snapshot_fail(job);
    else if (!job->task && (!job->save || save_done(job->save)))
        snapshot_finish_failure(job);
}

/* A paused guest's device state can be saved once: QEMU then counts it as gone elsewhere until it has run again. */
static void on_look(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, SNAPSHOT_LOOK, "to say how it is");
    const char *status = job ? json_string_value(json_object_get(json_object_get(r->reply, "return"), "status")) : NULL;

    if (!job)
        return;
    if (streq_opt(status, "postmigrate")) {
        err_set(&job->err, EPERM, "saved-already",
                "%s was saved since it was paused, and QEMU saves a paused guest only once: resume it first, or use that snapshot",
                job->vm->plan.name);
        snapshot_fail(job);
        return;
    }
    snapshot_progress(job, "disks", 0, 0);
    job->step = SNAPSHOT_DISKS;
    snapshot_disks_prepare(job);
}

int snapshot_begin(struct vm *vm, const struct snapshot_request *request, const struct snapshot_watcher *watcher, struct err *err)
{
    struct snapshot_job *job;
    int r = snapshot_check(vm, request, err);

    if (r < 0)
        return r;
    job = calloc(1, sizeof(*job));
    if (!job)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    job->vm = vm;
    job->parent = job->dir = job->state_fd = job->memory_fd = job->mem_fd = -1;
    job->live = request->live;
    job->was_running = vm->state == STATE_RUNNING;
    ev_init(&job->deadline, on_deadline);
    job->deadline.repeat = QEMU_TIMEOUT_MS / 1000.0;
    ev_async_init(&job->woken, on_woken);
    ev_async_start(loop_ev(vm->loop), &job->woken);
    r = snapshot_describe(job, request);
    if (r >= 0)
        r = snapshot_folder_make(job, err);
    if (r >= 0)
        r = snapshot_setup(job, err);
    if (r < 0) {
        err_from(err, r, "preparing the snapshot");
        snapshot_folder_remove(job);
        snapshot_pending_remove(vm);
        snapshot_job_free(job);
        return r;
    }
    job->watcher = *watcher;
    vm->snapshot = job;
    vm_tell(vm, EVENT_SNAPSHOT, NULL, "snapshot %s begun", job->record.name);
    FAILPOINT("shim.snapshot-begun");
    job->step = SNAPSHOT_LOOK;
    call(job, "query-status", NULL, on_look);
    return 0;
}

void snapshot_unwatch(struct vm *vm)
{
    if (vm->snapshot)
        vm->snapshot->watcher = (struct snapshot_watcher){ 0 };
}

void snapshot_cancel(struct vm *vm)
{
    struct snapshot_job *job = vm->snapshot;

    if (!job || job->step == SNAPSHOT_ENDING)
        return;
    err_set(&job->err, ECANCELED, "cancelled", "it was called off");
    snapshot_fail(job);
}

void snapshot_abort(struct vm *vm)
{
    struct snapshot_job *job = vm->snapshot;

    if (!job)
        return;
    if (job->step != SNAPSHOT_ENDING)
        err_set(&job->err, ESRCH, "ended", "%s ended meanwhile", vm->plan.name);
    job->step = SNAPSHOT_ENDING;
    task_join(&job->task);
    if (job->save)
        save_cancel(job->save);
    snapshot_finish_failure(job);
}

void snapshot_vm_stops(struct vm *vm)
{
    if (vm->snapshot && !(vm->snapshot->live && vm->snapshot->step == SNAPSHOT_COPY))
        snapshot_cancel(vm);
}

/* Also while it is let run on: a stop that was on its way when the snapshot failed is answered only now. */
bool snapshot_holds(const struct vm *vm) { return (vm->snapshot && vm->snapshot->held) || vm->running_on > 0; }

bool snapshot_will_hold(const struct vm *vm) { return snapshot_holds(vm) || (vm->snapshot && vm->snapshot->step == SNAPSHOT_STOP); }
