#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in) { return change_at_once(in, "Reset", "resetting", "reset"); }

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
