/* Events of all VMs: taken from the shims, written down, handed to who follows them. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/vm.h"

/* An Event object of io.holdfast.Shim. One that was seen before (a replay) is passed over. */
void events_received(struct vm *vm, const json_t *event);

/* The shim no longer had `lost` events; the next one is `next`. */
void events_gap(struct vm *vm, uint64_t lost, uint64_t next);
