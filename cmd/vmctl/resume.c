#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in)
{
    static char told[] = "running";
    const struct change change = {
        .method = "Resume",
        .doing = "resuming",
        .timeout_ms = -1,
        .wait = true,
        .told = change_told_fixed,
        .arg = told,
    };

    return change_verb(in, &change);
}

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
