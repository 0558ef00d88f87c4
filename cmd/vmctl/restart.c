#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in) { return change_stopping(in, "Restart", "restarting"); }

static const struct flag flags[] = { FLAG_ALL, FLAG_FORCE, FLAG_STOP_TIMEOUT, FLAG_NO_WAIT, FLAGS_END };

const struct verb verb_restart = {
    .name = "restart",
    .args = "NAME...",
    .group = "act",
    .summary = "stop VMs and start them again, with their newest spec",
    .example = "vmctl restart web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
