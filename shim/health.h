/* Health: the plan's probes, each on its own interval while the guest runs; what they say together, and what is done about it. */
#pragma once

#include <jansson.h>

#include "proto/states.h"

struct vm;

/* Called at every change of state: probes run while the guest runs, rest while it is paused, and begin anew with an incarnation. */
void health_state_changed(struct vm *vm);
void health_rest(struct vm *vm); /* no probe may be under way, or begin, until the state changes again */
enum vm_health health_now(const struct vm *vm);
/* Each probe with its last result, for the wire. NULL: out of memory. */
json_t *health_to_wire(const struct vm *vm);
void health_clear(struct vm *vm);
