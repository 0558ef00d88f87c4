/* Taking over the QEMU of a shim that died (DESIGN §7, Replacement): identity first, then its monitor and console. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "proto/status.h"
#include "shim/health.h"
#include "shim/ram.h"
#include "shim/vm.h"

static int read_status(const struct vm *vm, struct status *ret_status, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(vm->run_fd, FILE_STATUS, RECORD_MAX, &text, &len);

    if (r < 0)
        return err_set_errno(err, -r, "no-record", "can't read %s/%s, so there is no telling which QEMU is ours", vm->plan.run_dir,
                             FILE_STATUS);
    r = json_parse(text, len, &json, err);
    return r < 0 ? r : status_from_json(json, ret_status, err);
}

/* 1: it lives and is held by a pidfd, 0: it is gone. */
static int prove(struct vm *vm, const struct status *status, struct err *err)
{
    int r;

    if (!streq_opt(status->boot_id, vm->boot_id))
        return err_set(err, ESRCH, "other-boot", "the record of %s is from before the host was booted", vm->plan.name);
    if (status->qemu.pid == 0)
        return err_set(err, ESRCH, "not-launched", "no QEMU of %s is on record", vm->plan.name);
    r = pidref_open_identity((pid_t)status->qemu.pid, status->qemu.start_time, &vm->qemu.ref);
    if (r < 0 && r != -ESRCH)
        return err_set_errno(err, -r, "no-proof", "can't tell whether QEMU of %s (pid %llu) lives", vm->plan.name,
                             (unsigned long long)status->qemu.pid);
    return r == 0;
}

static void inherit(struct vm *vm, const struct status *status)
{
    vm->qemu.child = false;
    vm->qemu.started = clock_boottime_us() - (clock_real_us() - status->started);
    vm->qemu.ran = status->state == STATE_RUNNING || status->state == STATE_PAUSED || status->state == STATE_STOPPING;
    vm->incarnation = status->incarnation;
    vm->restarts = status->restarts;
    vm->backoff.attempt = status->attempt;
    vm->state = (enum vm_state)status->state;
    vm->stop.asked = vm->state == STATE_STOPPING;
}

int vm_adopt(struct vm *vm, struct err *err)
{
    auto_status struct status status = { 0 };
    int lives, r = read_status(vm, &status, err);

    if (r < 0)
        return r;
    lives = prove(vm, &status, err);
    if (lives < 0)
        return lives;
    r = tree_take_cgroup(&vm->tree, status.cgroup);
    if (r < 0)
        return err_set_errno(err, -r, "no-cgroup", "can't take over the cgroup of %s", vm->plan.name);
    inherit(vm, &status);
    if (!lives) {
        vm_tell(vm, EVENT_SHIM, NULL, "a new shim found QEMU (pid %llu) gone", (unsigned long long)status.qemu.pid);
        vm_qemu_lost(vm);
        return 0;
    }
    FAILPOINT("shim.adopt-after-proof");
    r = ram_adopt(vm, err);
    if (r < 0)
        return r;
    vm_qemu_watch(vm);
    vm_tell(vm, EVENT_SHIM, NULL, "a new shim took QEMU (pid %d) over", (int)vm->qemu.ref.pid);
    r = vm_connect_qmp(vm);
    if (r < 0)
        return err_set_errno(err, -r, "no-monitor", "can't reach the monitor of QEMU (pid %d)", (int)vm->qemu.ref.pid);
    if (vm->state == STATE_STOPPING)
        vm_ladder_begin(vm); /* anew */
    health_state_changed(vm);
    return 0;
}
