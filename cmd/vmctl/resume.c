#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in) { return change_at_once(in, "Resume", "resuming", "running"); }

static const struct flag flags[] = { FLAG_ALL, FLAGS_END };

const struct verb verb_resume = {
    .name = "resume",
    .args = "NAME...",
    .group = "act",
    .summary = "let paused VMs go on",
    .example = "vmctl resume web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
