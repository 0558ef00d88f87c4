#include "lib/manager/registry.h"

#include "lib/manager/link.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"

struct vm *registry_find(const struct manager *m, const char *name) { return name ? map_get(m->vms, name) : NULL; }

struct vm *registry_get_or_add(struct manager *m, const char *name)
{
    struct vm *vm = map_get(m->vms, name);

    if (vm)
        return vm;
    if (vm_new(m, name, &vm) < 0)
        return NULL;
    if (map_put(m->vms, name, vm) < 0) {
        vm_unref(vm);
        return NULL;
    }
    return vm;
}

void registry_remove(struct vm *vm)
{
    struct manager *m = vm->manager;

    vm->gone_from_registry = true;
    waiters_forgotten(vm);
    link_close(vm);
    loop_undefer(&vm->settle);
    map_remove(m->vms, vm->name);
    vm_unref(vm);
}

void registry_clear(struct manager *m)
{
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        vm->gone_from_registry = true;
        waiters_drop(vm);
        vm_unref(vm);
    }
    map_free(steal_ptr(&m->vms));
}
