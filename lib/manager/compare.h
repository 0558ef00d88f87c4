/* What a new plan would change of a VM that runs, in words and in effect. */
#pragma once

#include "lib/manager/planner.h"

enum effect {
    EFFECT_NONE,    /* shim and QEMU wouldn't notice */
    EFFECT_LIVE,    /* without a restart */
    EFFECT_RESTART, /* by a restart */
    EFFECT_START,   /* nothing runs: when it is started */
    EFFECT_CREATE,  /* there is no such VM yet */
};
extern const struct enum_names effect_names;

struct comparison {
    enum effect effect;
    json_t *differences; /* array of Difference (io.holdfast.Manager) */
};

/* Of a request that was planned with PLAN_SHOW, or awaits its image: NONE, LIVE or RESTART. -EINVAL with words when the plan that runs can't be
 * read. Blocks: for a worker's thread. */
int compare_with_running(const struct plan_request *p, struct comparison *ret, struct err *err);
/* The same when nothing runs: START, and what is different from `file`, the spec on disk (NULL: none). */
int compare_with_file(const struct plan_request *p, const json_t *file, struct comparison *ret);
