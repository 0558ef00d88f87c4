/* What QEMU tells by QMP, turned into events of the VM. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/log.h"
#include "shim/restore.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

static void on_cont(void *arg, const struct qmp_result *r)
{
    struct vm *vm = arg;

    if (r->failure != 0 && vm->state == STATE_RESTORING) {
        vm_restore_failed(vm, "QEMU refused to let the guest run: %s", r->text);
        return;
    }
    if (r->failure != 0) {
        vm_tell(vm, EVENT_SHIM, NULL, "QEMU refused to let the guest run: %s", r->text);
        log_vm_error(vm->plan.name, "QEMU refused to let the guest run: %s", r->text);
        return;
    }
    FAILPOINT("shim.after-cont");
    /* A guest that ran already (extra arguments can do that) sends no RESUME. */
    vm->qemu.ran = true;
    if (vm->state == STATE_LAUNCHING || vm->state == STATE_RESTORING)
        vm_handle(vm, VM_RESUMED, NULL);
}

/* Where an adopted QEMU stands is asked, not assumed: it may have been paused or resumed while nobody listened. */
static void on_status(void *arg, const struct qmp_result *r)
{
    struct vm *vm = arg;
    const char *status;

    if (r->failure != 0)
        return;
    status = json_string_value(json_object_get(json_object_get(r->reply, "return"), "status"));
    if (!status || vm->state == STATE_STOPPING)
        return;
    if (streq(status, "running"))
        vm_handle(vm, VM_RESUMED, NULL);
    else if (vm->qemu.ran)
        vm_handle(vm, VM_PAUSED, status);
    else
        vm_continue(vm);
}

void vm_let_run(struct vm *vm)
{
    int r = qmp_client_call(vm->qemu.qmp, "cont", NULL, 0, on_cont, vm);

    if (r < 0)
        vm_tell(vm, EVENT_SHIM, NULL, "can't speak to QEMU: %s", strerror(-r));
}

void vm_continue(struct vm *vm)
{
    int r;

    FAILPOINT("shim.before-cont");
    vm_console_begin_boot(vm);
    if (!vm->qemu.child)
        vm_update_adopt(vm);
    vm_update_monitor_ready(vm);
    if (!vm->qemu.child && snapshot_adopt(vm))
        return;
    if (vm->state == STATE_STOPPING) {
        vm_ladder_monitor_ready(vm);
        return;
    }
    if (vm->state == STATE_RESTORING) {
        restore_begin(vm);
        return;
    }
    if (vm->qemu.child || !vm->qemu.ran) {
        vm_let_run(vm);
        return;
    }
    r = qmp_client_call(vm->qemu.qmp, "query-status", NULL, QMP_TIMEOUT_MS, on_status, vm);
    if (r < 0)
        vm_tell(vm, EVENT_SHIM, NULL, "can't speak to QEMU: %s", strerror(-r));
}

/* The moment QEMU is up, to the microsecond: what a start costs is measured by it. */
static void on_greeting(struct vm *vm, const json_t *data)
{
    const json_t *version = json_object_get(json_object_get(data, "version"), "qemu");

    free(steal_ptr(&vm->qemu.version));
    (void)str_format(&vm->qemu.version, "%d.%d.%d", (int)json_integer_value(json_object_get(version, "major")),
                     (int)json_integer_value(json_object_get(version, "minor")),
                     (int)json_integer_value(json_object_get(version, "micro")));
    vm_tell(vm, EVENT_QMP, json_pack("{sI sO*}", "real_us", (json_int_t)clock_real_us(), "version", json_object_get(data, "version")),
            "greeting");
    if (vm->state == STATE_RESTORING && vm->qemu.child)
        restore_begin(vm); /* QEMU is still being set up, and finds what it shall do then */
}

static void on_resume(struct vm *vm, const json_t *data)
{
    vm->qemu.ran = true;
    vm->no_room = false;
    vm_handle(vm, VM_RESUMED, NULL);
}

static void on_stop(struct vm *vm, const json_t *data)
{
    /* After SHUTDOWN QEMU stops the CPUs on its way out: that is no pause. Neither is the moment a snapshot takes. */
    if (!vm->qemu.shutdown_reason && vm->state != STATE_RESTORING && !snapshot_holds(vm))
        vm_handle(vm, VM_PAUSED, NULL);
}

/* QEMU docs/qemu-qmp-ref, BLOCK_IO_ERROR: with the action "stop" the guest stands still until it is let run. */
static void on_io_error(struct vm *vm, const json_t *data)
{
    vm->no_room = json_is_true(json_object_get(data, "nospace")) && streq_opt(json_string_value(json_object_get(data, "action")), "stop");
}

static void on_shutdown(struct vm *vm, const json_t *data)
{
    const char *reason = json_string_value(json_object_get(data, "reason"));

    if (str_set(&vm->qemu.shutdown_reason, reason ? reason : "unknown") < 0)
        log_vm_warning(vm->plan.name, "out of memory: the reason of the shutdown is lost");
}

static void on_migration(struct vm *vm, const json_t *data)
{
    const char *status = json_string_value(json_object_get(data, "status"));

    if (!status)
        return;
    restore_migration(vm, status);
    snapshot_migration(vm, status);
}

static void on_noise(struct vm *vm, const json_t *data) {}

struct qmp_row {
    const char *name;
    void (*handle)(struct vm *vm, const json_t *data);
    bool quiet; /* not worth an event of its own: the state tells, or it comes every few seconds */
};

static const struct qmp_row rows[] = {
    { "greeting", on_greeting, true },   { "RESUME", on_resume, true },
    { "STOP", on_stop, true },           { "SHUTDOWN", on_shutdown, false },
    { "MIGRATION", on_migration, true }, { "BLOCK_IO_ERROR", on_io_error, false },
    { "RTC_CHANGE", on_noise, true },    { "NIC_RX_FILTER_CHANGED", on_noise, true },
};

void vm_handle_qmp_event(struct vm *vm, const char *name, const json_t *data)
{
    const struct qmp_row *row = NULL;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (streq(rows[i].name, name))
            row = &rows[i];
    if (row)
        row->handle(vm, data);
    if (!row || !row->quiet)
        vm_tell(vm, EVENT_QMP, data ? json_deep_copy(data) : NULL, "%s", name);
}
