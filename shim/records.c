/* What the shim leaves on disk: status while the VM lives, the exit record for ever after. */
#include <errno.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "proto/status.h"
#include "shim/health.h"
#include "shim/vm.h"

int vm_write_record(int dirfd, const char *name, const struct record_type *type, const void *record, enum file_durability durability)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = record_emit(type, record, &json);

    if (r >= 0)
        r = json_format(json, &text, &len);
    return r < 0 ? r : file_write(dirfd, name, text, len, 0640, durability);
}

static int read_json(int dirfd, const char *name, json_t **ret_json, struct err *err)
{
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(dirfd, name, RECORD_MAX, &text, &len);

    return r < 0 ? r : json_parse(text, len, ret_json, err);
}

/* The strings are borrowed from `vm`: the result is never cleared. */
static struct status current_status(const struct vm *vm)
{
    union {
        const char *borrowed;
        char *s;
    } boot_id = { vm->boot_id }, digest = { vm->digest }, version = { HOLDFAST_VERSION };
    uint64_t running_us = clock_boottime_us() - vm->qemu.started;

    return (struct status){
        .schema = STATUS_SCHEMA,
        .name = vm->plan.name,
        .incarnation = vm->incarnation,
        .state = (int)vm->state,
        .since = vm->since,
        .detail = vm->detail,
        .health = (int)health_now(vm),
        .restarts = vm->restarts,
        .attempt = vm->backoff.attempt,
        .started = vm->qemu.ref.pid ? clock_real_us() - running_us : 0,
        .boot_id = boot_id.s,
        .shim = { (uint64_t)getpid(), vm->shim_start_time },
        .qemu = { (uint64_t)vm->qemu.ref.pid, vm->qemu.ref.start_time },
        .plan_digest = digest.s,
        .version = version.s,
        .cgroup = vm->tree.cgroup,
        .event_seq = vm->events.next_seq - 1,
    };
}

void vm_write_status(struct vm *vm)
{
    struct status status = current_status(vm);
    int r = vm_write_record(vm->run_fd, FILE_STATUS, &status_type, &status, FILE_ATOMIC);

    if (r < 0)
        log_vm_error(vm->plan.name, "can't write %s: %s; a replacement of this shim would not find its QEMU", FILE_STATUS, strerror(-r));
}

void vm_write_exit(struct vm *vm, const struct exit_record *record)
{
    int r = vm_write_record(vm->state_fd, FILE_LAST_EXIT, &exit_type, record, FILE_DURABLE);

    if (r < 0) {
        log_vm_error(vm->plan.name, "can't write %s: %s", FILE_LAST_EXIT, strerror(-r));
        vm_tell(vm, EVENT_SHIM, NULL, "the exit record could not be written: %s", strerror(-r));
    }
    FAILPOINT("shim.after-exit-record");
}

/* The last exit as known on disk. A record that doesn't parse is set aside, never deleted, and starts nothing over. */
static int read_last_exit(struct vm *vm)
{
    auto_json json_t *json = NULL;
    auto_free char *aside = NULL;
    struct err err = ERR_INIT;
    int r = read_json(vm->state_fd, FILE_LAST_EXIT, &json, &err);

    if (r == -ENOENT)
        return 0;
    if (r >= 0)
        r = exit_from_json(json, &vm->last_exit, &err);
    if (r >= 0 || r == -ENOMEM)
        return r;
    exit_clear(&vm->last_exit);
    if (file_set_aside(vm->state_fd, FILE_LAST_EXIT, &aside) >= 0)
        log_vm_warning(vm->plan.name, "%s set aside as %s: %s", FILE_LAST_EXIT, aside, err_is_set(&err) ? err.text : strerror(-r));
    return 0;
}

/* An incarnation that has a status record but no exit record died together with its shim: that exit is explained now, as unknown. */
static void explain_predecessor(struct vm *vm, const struct status *status)
{
    bool same_boot = streq_opt(status->boot_id, vm->boot_id);
    struct exit_record record = {
        .schema = EXIT_SCHEMA,
        .incarnation = status->incarnation,
        .kind = EXIT_UNKNOWN,
        .code = -1,
        .at = clock_real_us(),
        .final = false,
        .event_seq = status->event_seq,
    };

    if (status->qemu.pid == 0 || status->incarnation <= vm->last_exit.incarnation)
        return;
    if (str_set(&record.name, vm->plan.name) < 0 || str_set(&record.boot_id, status->boot_id) < 0 ||
        str_set(&record.detail, same_boot ? "QEMU and its shim were both gone" : "the host was rebooted") < 0) {
        exit_clear(&record);
        return;
    }
    vm_write_exit(vm, &record);
    exit_clear(&vm->last_exit);
    vm->last_exit = record;
}

int vm_read_predecessor(struct vm *vm, struct err *err)
{
    auto_status struct status status = { 0 };
    auto_json json_t *json = NULL;
    auto_free char *aside = NULL;
    struct err why = ERR_INIT;
    int r = read_last_exit(vm);

    if (r < 0)
        return err_set_errno(err, -r, "no-record", "can't read %s/%s", vm->plan.state_dir, FILE_LAST_EXIT);
    r = read_json(vm->run_fd, FILE_STATUS, &json, &why);
    if (r >= 0)
        r = status_from_json(json, &status, &why);
    if (r < 0 && r != -ENOENT && file_set_aside(vm->run_fd, FILE_STATUS, &aside) >= 0)
        log_vm_warning(vm->plan.name, "%s set aside as %s: %s", FILE_STATUS, aside, err_is_set(&why) ? why.text : strerror(-r));
    vm->incarnation = 1 + (status.incarnation > vm->last_exit.incarnation ? status.incarnation : vm->last_exit.incarnation);
    event_ring_init(&vm->events, status.event_seq > vm->last_exit.event_seq ? status.event_seq : vm->last_exit.event_seq);
    if (vm->vm_lock >= 0 && r >= 0)
        explain_predecessor(vm, &status);
    return 0;
}

json_t *vm_status_to_wire(const struct vm *vm)
{
    char since[CLOCK_TEXT_MAX];
    json_t *qemu = NULL;
    uint64_t uptime_ms = vm->qemu.ref.pid ? (clock_boottime_us() - vm->qemu.started) / 1000 : 0;

    if (vm->qemu.ref.pid)
        qemu = json_pack("{sI sI}", "pid", (json_int_t)vm->qemu.ref.pid, "start_time", (json_int_t)vm->qemu.ref.start_time);
    return json_pack("{ss sI ss ss ss* ss sI sI ss s{sI sI} so* ss ss sI so*}", "name", vm->plan.name, "incarnation",
                     (json_int_t)vm->incarnation, "state", enum_to_string(&vm_state_names, (int)vm->state), "since",
                     clock_format(vm->since, since), "detail", vm->detail, "health", enum_to_string(&vm_health_names, (int)health_now(vm)),
                     "restarts", (json_int_t)vm->restarts, "uptime_ms", (json_int_t)uptime_ms, "boot_id", vm->boot_id, "shim", "pid",
                     (json_int_t)getpid(), "start_time", (json_int_t)vm->shim_start_time, "qemu", qemu, "plan_digest", vm->digest,
                     "version", HOLDFAST_VERSION, "event_seq", (json_int_t)(vm->events.next_seq - 1), "last_exit",
                     vm->last_exit.schema ? exit_to_wire(&vm->last_exit) : NULL);
}
