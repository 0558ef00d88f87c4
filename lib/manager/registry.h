/* All VMs by name. */
#pragma once

#include "lib/manager/vm.h"

struct manager;

struct vm *registry_find(const struct manager *m, const char *name); /* NULL: no such VM, or `name` is NULL */
struct vm *registry_get_or_add(struct manager *m, const char *name); /* NULL: out of memory */
/* The VM is no more: taken out, its line ended, waiting calls answered. */
void registry_remove(struct vm *vm);
void registry_clear(struct manager *m);
