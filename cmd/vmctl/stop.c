#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"

static enum outcome run(const struct invocation *in) { return change_stopping(in, "Stop", "stopping"); }

static const struct flag flags[] = { FLAG_ALL, FLAG_FORCE, FLAG_STOP_TIMEOUT, FLAG_NO_WAIT, FLAGS_END };

const struct verb verb_stop = {
    .name = "stop",
    .args = "NAME...",
    .group = "act",
    .summary = "stop VMs: ask the guest, then insist",
    .details =
        "The guest is asked by its power button; when it takes longer than the time of its spec (stop.timeout, 60s), QEMU is told to\n"
        "quit, then sent SIGTERM, then SIGKILL. The VM's shim does all that: it is done also when vmctl or the manager goes away.",
    .example = "vmctl stop web --timeout 2m",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
