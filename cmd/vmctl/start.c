#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in)
{
    const struct change change = {
        .method = "Start",
        .doing = "starting",
        .timeout_ms = in->timeout_ms,
        .wait = !in->no_wait,
        .told = change_told_state,
    };

    return change_verb(in, &change);
}

static const struct flag flags[] = {
    FLAG_ALL,
    FLAG_NO_WAIT,
    { "timeout", 't', FLAG_DURATION, "DURATION", "wait no longer than this; the start goes on", offsetof(struct invocation, timeout_ms),
      NULL },
    FLAGS_END,
};

const struct verb verb_start = {
    .name = "start",
    .args = "NAME...",
    .group = "act",
    .summary = "start VMs, and wait until they run",
    .example = "vmctl start web db",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
