#include "lib/manager/hold.h"

#include "lib/manager/allocations.h"
#include "lib/manager/planner.h"
#include "lib/manager/rollout.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/state.h"

/* Whatever may still run counts, known or not. */
static bool is_active(const struct vm *vm)
{
    return vm->presence != PRESENCE_GONE || vm->launch || vm->unclear || (vm->has_wanted && vm->wanted.wish == WANTED_RUNNING);
}

void hold_note(struct vm *vm)
{
    if (allocations_set_active(vm->manager->allocations, vm->name, is_active(vm)))
        hold_freed(vm->manager);
}

void hold_begin(struct manager *m)
{
    map_foreach (m->vms, e)
        hold_note(map_value(e));
    allocations_settle(m->allocations);
}

void hold_freed(struct manager *m)
{
    if (m->stopping)
        return;
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (vm->contested)
            vm->check_due = vm->edit_due = true;
        if (!vm->blocked)
            continue;
        vm->blocked = vm->gave_up = false;
        vm_changed(vm);
    }
    rollout_retry(m);
    spec_edit_kick(m);
    if (m->serving)
        planner_check(m);
}
