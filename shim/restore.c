#include "shim/restore.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "shim/layers.h"
#include "shim/ram.h"
#include "shim/task.h"
#include "shim/vm.h"

/* Of each step; loading RAM before the guest runs (eager) takes as long as the disk takes. */
enum { STEP_TIMEOUT_MS = 30 * 1000 };

enum restore_step { STEP_IDLE, STEP_LOOK, STEP_RAM, STEP_INCOMING, STEP_SYNC, STEP_CONT };

struct restore {
    struct vm *vm;
    struct task *task; /* restore_prepare(), while it runs; then layers_sync() */
    bool synced;
    struct ram_source source;
    struct disks disks;
    bool has_disks;
    enum restore_step step;
    ev_timer deadline;
    char failure[ERR_TEXT_MAX];
};

bool vm_is_restoring(const struct vm *vm) { return vm->plan.restore.folder; }

static void on_deadline(struct ev_loop *ev, ev_timer *w, int revents)
{
    static const char *const what[] = {
        [STEP_IDLE] = "nothing",
        [STEP_LOOK] = "QEMU to answer",
        [STEP_RAM] = "the RAM to be mapped",
        [STEP_INCOMING] = "the device state to be loaded",
        [STEP_SYNC] = "its disks to be written",
        [STEP_CONT] = "the guest to run",
    };
    struct restore *restore = container_of(w, struct restore, deadline);

    vm_restore_failed(restore->vm, "waited %d s for %s", STEP_TIMEOUT_MS / 1000, what[restore->step]);
}

static struct restore *get(struct vm *vm)
{
    if (!vm->restore) {
        vm->restore = calloc(1, sizeof(*vm->restore));
        if (!vm->restore)
            return NULL;
        vm->restore->vm = vm;
        vm->restore->source.image = vm->restore->source.pages = -1;
        ev_init(&vm->restore->deadline, on_deadline);
        vm->restore->deadline.repeat = STEP_TIMEOUT_MS / 1000.0;
    }
    return vm->restore;
}

/* ---- before QEMU ---- */

static void let_run(struct vm *vm);

static int run_prepare(void *arg, struct err *err)
{
    struct restore *restore = arg;
    struct vm *vm = restore->vm;
    auto_disks struct disks before = { 0 };
    int r = ram_source_open(vm, &restore->source, err);

    if (r >= 0)
        r = layers_load(vm->state_fd, &vm->plan, &before, err);
    if (r >= 0)
        r = layers_restore(vm->state_fd, &vm->plan, &restore->source.snapshot, &before, &restore->disks, err);
    if (r >= 0) {
        restore->has_disks = true;
        /* For a shim that has to finish this. */
        r = vm_write_record(vm->run_fd, FILE_RESTORE_DISKS, &disks_type, &restore->disks, FILE_ATOMIC);
        if (r < 0)
            err_set_errno(err, -r, "no-record", "can't write %s/%s", vm->plan.run_dir, FILE_RESTORE_DISKS);
    }
    return r;
}

/* ---- what was made for the disks, on disk ---- */

static int run_sync(void *arg, struct err *err)
{
    struct restore *restore = arg;

    return layers_sync(restore->vm->state_fd, &restore->disks, err);
}

static void on_synced(void *arg, int r, const struct err *err)
{
    struct restore *restore = arg;

    restore->synced = r >= 0;
    if (r < 0)
        vm_restore_failed(restore->vm, "%s", err->text);
    else if (restore->step == STEP_SYNC)
        let_run(restore->vm);
}

static void start_sync(struct restore *restore)
{
    int r = task_start(restore->vm->loop, &(struct task_work){ run_sync, on_synced, restore }, &restore->task);

    if (r < 0)
        vm_restore_failed(restore->vm, "can't start a thread: %s", strerror(-r));
}

static void on_prepared(void *arg, int r, const struct err *err)
{
    struct restore *restore = arg;
    struct vm *vm = restore->vm;

    if (restore->source.warning)
        vm_tell(vm, EVENT_MEMORY, NULL, "%s", restore->source.warning);
    if (r >= 0)
        start_sync(restore); /* beside QEMU's start, which takes longer */
    if (r >= 0)
        vm_prepare_steps(vm);
    else
        vm_launch_failed(vm, NULL, err_is_set(err) ? err->text : strerror(-r));
}

void restore_prepare(struct vm *vm)
{
    struct restore *restore;
    int r;

    restore_end(vm); /* of an earlier try */
    restore = get(vm);
    r = restore ? task_start(vm->loop, &(struct task_work){ run_prepare, on_prepared, restore }, &restore->task) : -ENOMEM;
    if (r < 0)
        vm_launch_failed(vm, NULL, strerror(-r));
}

void restore_take_source(struct vm *vm, struct ram_source *ret_source)
{
    *ret_source = vm->restore->source;
    vm->restore->source = (struct ram_source){ .image = -1, .pages = -1 };
}

const struct disks *restore_disks(const struct vm *vm) { return vm->restore && vm->restore->has_disks ? &vm->restore->disks : NULL; }

bool restore_replaces(const struct vm *vm, const char *path) { return restore_disks(vm) && disks_find(restore_disks(vm), path); }

/* ---- QEMU's part ---- */

static void enter(struct restore *restore, enum restore_step step)
{
    restore->step = step;
    if (step == STEP_RAM && restore->vm->plan.restore.mode == RESTORE_EAGER)
        ev_timer_stop(loop_ev(restore->vm->loop), &restore->deadline);
    else
        ev_timer_again(loop_ev(restore->vm->loop), &restore->deadline);
}

void vm_restore_failed(struct vm *vm, const char *fmt, ...)
{
    struct restore *restore = get(vm);
    char text[ERR_TEXT_MAX];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (restore && restore->failure[0])
        return;
    if (restore) {
        memcpy(restore->failure, text, sizeof(text));
        restore->step = STEP_IDLE;
        ev_timer_stop(loop_ev(vm->loop), &restore->deadline);
    }
    vm_tell(vm, EVENT_MEMORY, NULL, "the restore failed: %s", text);
    (void)vm_signal(vm, SIGKILL);
}

const char *restore_failure(const struct vm *vm) { return vm->restore && vm->restore->failure[0] ? vm->restore->failure : NULL; }

/* Calls QMP and fails the restore if that can't even be sent. */
static void call(struct vm *vm, const char *command, json_t *arguments_consume, int fd, void (*done)(void *, const struct qmp_result *))
{
    json_t *arguments = arguments_consume;
    int r;

    if (restore_failure(vm)) {
        json_decref(arguments);
        return;
    }
    r = arguments ? qmp_client_call_fd(vm->qemu.qmp, command, arguments, fd, &(struct qmp_done){ 0, done, vm }) : -ENOMEM;

    json_decref(arguments);
    if (r < 0)
        vm_restore_failed(vm, "can't ask QEMU for %s: %s", command, strerror(-r));
}

static bool refused(struct vm *vm, const struct qmp_result *r, const char *what)
{
    if (vm->state != STATE_RESTORING || restore_failure(vm))
        return true;
    if (r->failure != 0)
        vm_restore_failed(vm, "QEMU refused %s: %s", what, r->text);
    return r->failure != 0;
}

static void on_capabilities(void *arg, const struct qmp_result *r) { (void)refused(arg, r, "migration without RAM"); }
static void on_state_given(void *arg, const struct qmp_result *r) { (void)refused(arg, r, "to take the device state"); }
static void on_incoming(void *arg, const struct qmp_result *r) { (void)refused(arg, r, "to load the device state"); }

/* In one go: QEMU reads its commands when it is set up, and each answer awaited before the next question would cost it a turn. */
static void load_state(struct vm *vm)
{
    auto_fd int dir = dir_open(AT_FDCWD, vm->plan.restore.folder);
    auto_fd int fd = dir < 0 ? -1 : openat(dir, FILE_DEVICE_STATE, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0) {
        vm_restore_failed(vm, "can't open %s/%s: %s", vm->plan.restore.folder, FILE_DEVICE_STATE, strerror(errno));
        return;
    }
    enter(vm->restore, STEP_INCOMING);
    call(vm, "migrate-set-capabilities", migration_capabilities(), -1, on_capabilities);
    call(vm, "getfd", json_pack("{ss}", "fdname", "snapshot"), fd, on_state_given);
    call(vm, "migrate-incoming", json_pack("{ss}", "uri", "fd:snapshot"), -1, on_incoming);
}

json_t *migration_capabilities(void)
{
    return json_pack("{s[{ss sb} {ss sb}]}", "capabilities", "capability", "x-ignore-shared", "state", 1, "capability", "events", "state",
                     1);
}

void restore_poke(struct vm *vm)
{
    struct err err = ERR_INIT;
    int r;

    if (vm->state != STATE_RESTORING || !vm->restore || vm->restore->step != STEP_RAM)
        return;
    r = ram_ready(vm->ram, &err);
    if (r == 0)
        return;
    if (r < 0) {
        vm_restore_failed(vm, "%s", err.text);
        return;
    }
    FAILPOINT("shim.restore-before-incoming");
    load_state(vm);
}

/* What the predecessor of an adopting shim had prepared. */
static int find_disks(struct vm *vm, struct err *err)
{
    struct restore *restore = vm->restore;
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    if (restore->has_disks)
        return 0;
    r = file_read(vm->run_fd, FILE_RESTORE_DISKS, RECORD_MAX, &text, &len);
    if (r >= 0)
        r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = disks_from_json(json, &restore->disks, err);
    restore->has_disks = r >= 0;
    return r < 0 ? err_from(err, r, "reading the disks' layers") : 0;
}

static void let_run(struct vm *vm)
{
    struct err err = ERR_INIT;
    int r = find_disks(vm, &err);

    if (r >= 0 && !vm->restore->synced) {
        enter(vm->restore, STEP_SYNC);
        if (!vm->restore->task)
            start_sync(vm->restore);
        return;
    }
    if (r >= 0 && vm->restore->disks.n_disks > 0) /* from the moment the guest writes, its disks are these */
        r = layers_store(vm->state_fd, &vm->restore->disks, &err);
    if (r < 0) {
        err_from(&err, r, "writing down the disks' layers");
        vm_restore_failed(vm, "%s", err.text);
        return;
    }
    FAILPOINT("shim.restore-before-cont");
    enter(vm->restore, STEP_CONT);
    vm_let_run(vm);
}

void restore_migration(struct vm *vm, const char *status)
{
    if (vm->state != STATE_RESTORING || restore_failure(vm))
        return;
    if (streq(status, "completed"))
        let_run(vm);
    else if (streq(status, "failed"))
        vm_restore_failed(vm, "QEMU could not load the device state: it is of another machine, or damaged");
}

/* Where an adopted QEMU stands. */
static void on_query_migrate(void *arg, const struct qmp_result *r)
{
    struct vm *vm = arg;
    const char *status;

    if (refused(vm, r, "to say how far the device state is loaded"))
        return;
    status = json_string_value(json_object_get(json_object_get(r->reply, "return"), "status"));
    if (!status || streq(status, "none") || streq(status, "setup")) {
        enter(vm->restore, STEP_RAM);
        restore_poke(vm);
    } else if (streq(status, "active")) {
        enter(vm->restore, STEP_INCOMING);
    } else {
        restore_migration(vm, status);
    }
}

void restore_begin(struct vm *vm)
{
    struct restore *restore = get(vm);

    if (!restore) {
        vm_restore_failed(vm, "out of memory");
        return;
    }
    if (restore_failure(vm)) { /* found before there was a QEMU to kill */
        (void)vm_signal(vm, SIGKILL);
        return;
    }
    if (restore->step != STEP_IDLE)
        return; /* it was begun with the greeting */
    if (!vm->qemu.child) {
        enter(restore, STEP_LOOK);
        call(vm, "query-migrate", json_object(), -1, on_query_migrate);
        return;
    }
    enter(restore, STEP_RAM);
    restore_poke(vm);
}

void restore_done(struct vm *vm)
{
    const char *mode = enum_to_string(&restore_mode_names, vm->plan.restore.mode);
    struct err err = ERR_INIT;

    vm_tell(vm, EVENT_MEMORY, NULL, "restored from %s, %s", vm->plan.restore.folder, mode);
    restore_end(vm);
    (void)unlinkat(vm->run_fd, FILE_RESTORE_DISKS, 0);
    if (vm->plan.restore.ephemeral) {
        ram_guest_runs(vm);
        return; /* its plan is never used again */
    }
    free(steal_ptr(&vm->plan.restore.folder));
    /* From here on it boots when it is started again. */
    if (vm_write_plan(vm, &err) < 0)
        vm_tell(vm, EVENT_SHIM, NULL, "%s", err.text);
    ram_guest_runs(vm);
}

void restore_settled(struct vm *vm)
{
    if (vm->plan.restore.ephemeral)
        vm_stop_now(vm, "the working set is known");
}

void restore_end(struct vm *vm)
{
    struct restore *restore = steal_ptr(&vm->restore);

    if (!restore)
        return;
    task_join(&restore->task);
    ev_timer_stop(loop_ev(vm->loop), &restore->deadline);
    ram_source_close(&restore->source);
    disks_clear(&restore->disks);
    free(restore);
}
