/* The differences between two launch plans in the words of the specs they were made of: what an operator is told before a change is made.
 * Pure. */
#pragma once

#include <jansson.h>

#include "proto/plan.h"

/* Of what runs, and of what shall run. The specs are native, with all defaults written out (spec_emit()). */
struct changes_input {
    const json_t *old_spec; /* NULL: not known any more; then the plan's own words are used */
    const json_t *new_spec;
    const struct plan *old, *new; /* both NULL: nothing runs, and the specs alone are compared */
};

/* A new array of Difference (io.holdfast.Manager): {"what": "/memory", "old": "256M", "new": "512M", "live": false, "why": …}. It is empty
 * when QEMU and shim wouldn't notice, also where the specs differ in something that comes to the same. What no key of a spec explains is told
 * as such: "QEMU", "QEMU's user", "holdfast's own command line". 0 or -ENOMEM. */
int changes_list(const struct changes_input *in, json_t **ret_list);
/* Whether one of them needs a restart. */
bool changes_need_restart(const json_t *list);
