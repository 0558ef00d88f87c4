#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in) { return change_at_once(in, "Pause", "pausing", "paused"); }

static const struct flag flags[] = { FLAG_ALL, FLAGS_END };

const struct verb verb_pause = {
    .name = "pause",
    .args = "NAME...",
    .group = "act",
    .summary = "hold VMs still, memory and devices kept",
    .example = "vmctl pause web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
