#include "lib/manager/plan_restore.h"

#include <errno.h>

#include "lib/base/fd.h"
#include "lib/manager/snapshot_verify.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/state.h"
#include "lib/qemu/capabilities.h"
#include "lib/qemu/hardware.h"

int plan_restore_mode(int mode)
{
    const char *allowed = getenv("HOLDFAST_UFFD");

    return mode == RESTORE_LAZY && allowed && streq(allowed, "0") ? RESTORE_MAPPED : mode;
}

static int read_sound(const struct manager *m, const struct wanted_restore *restore, struct snapshot_info *ret_info, struct err *err)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_fd int fd = -1;
    int r;

    r = snapshots_read(m->snapshots_fd, restore->vm, restore->snapshot, &info);
    if (r == -ENOENT)
        return err_set(err, ENOENT, "no-snapshot", "there is no snapshot %s/%s (any more)", restore->vm, restore->snapshot);
    if (r < 0)
        return r;
    if (info.damaged)
        return err_set(err, EINVAL, "damaged", "snapshot %s/%s is damaged: %s", restore->vm, restore->snapshot, info.damaged);
    fd = snapshots_open(m->snapshots_fd, restore->vm, restore->snapshot);
    r = fd < 0 ? fd : snapshot_read_index(fd, &info.found, false, &index, err);
    if (r < 0) {
        err_from(err, r, "reading it");
        err_prefix(err, "snapshot %s/%s is damaged", restore->vm, restore->snapshot);
        if (r != -ENOMEM)
            snprintf(err->id, sizeof(err->id), "damaged");
        return r;
    }
    *ret_info = info;
    info = (struct snapshot_info){ 0 };
    return 0;
}

int plan_restore_machine(const struct manager *m, const struct wanted_restore *restore, struct qemu_capabilities *capabilities)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    const char *machine;

    /* What is wrong with it plan_restore() says. */
    if (snapshots_read(m->snapshots_fd, restore->vm, restore->snapshot, &info) < 0 || info.damaged)
        return 0;
    machine = info.found.hardware.machine;
    return machine && qemu_capabilities_has_machine(capabilities, machine) ? str_set(&capabilities->machine, machine) : 0;
}

int plan_restore(const struct manager *m, const struct wanted_restore *restore, bool prefetch, const char *qemu_version, struct plan *plan,
                 struct err *err)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_hardware struct hardware hardware = { 0 };
    int mode = plan_restore_mode(restore->mode), r;

    if (!plan->ram.shared)
        return err_set(err, EOPNOTSUPP, "refused",
                       "the memory of %s is private to QEMU, as that of confidential VMs and those with passed-through devices is: no "
                       "snapshot can be restored into it; take \"gpus\" and \"confidential\" out of its spec, or start it without",
                       plan->name);

    r = read_sound(m, restore, &info, err);
    if (r < 0)
        return r;
    r = hardware_from_plan(plan, qemu_version, &hardware);
    if (r < 0)
        return err_from(err, r, "the hardware of its plan");
    r = hardware_fits(&info.found.hardware, &hardware, err);
    if (r < 0) {
        err_prefix(err, "snapshot %s/%s can't be restored as %s", restore->vm, restore->snapshot, plan->name);
        return r;
    }
    r = str_format(&plan->restore.folder, "%s/" FOLDER_SNAPSHOTS "/%s/%s", m->dirs.state, restore->vm, restore->snapshot);
    if (r < 0)
        return r;
    plan->restore.mode = mode;
    plan->restore.prefetch = prefetch;
    plan->restore.record = prefetch && mode == RESTORE_LAZY && !info.working_set;
    return 0;
}
