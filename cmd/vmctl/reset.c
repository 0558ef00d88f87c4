#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in)
{
    static char told[] = "reset";
    const struct change change = {
        .method = "Reset",
        .doing = "resetting",
        .timeout_ms = -1,
        .wait = true,
        .told = change_told_fixed,
        .arg = told,
    };

    return change_verb(in, &change);
}

static const struct flag flags[] = { FLAG_ALL, FLAGS_END };

const struct verb verb_reset = {
    .name = "reset",
    .args = "NAME...",
    .group = "act",
    .summary = "press the reset button",
    .example = "vmctl reset web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
