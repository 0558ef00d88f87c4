#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *parameters = change_stop_parameters(in);
    const struct change change = {
        .method = "Stop",
        .doing = "stopping",
        .parameters = parameters,
        .timeout_ms = -1,
        .wait = !in->no_wait,
        .told = change_told_state,
    };

    return change_verb(in, &change);
}

static const struct flag flags[] = {
    FLAG_ALL,
    { "force", 0, FLAG_SET, NULL, "don't ask the guest, begin at SIGTERM", offsetof(struct invocation, force), NULL },
    { "timeout", 't', FLAG_DURATION, "DURATION", "how long the guest may take before force is used",
      offsetof(struct invocation, timeout_ms), NULL },
    FLAG_NO_WAIT,
    FLAGS_END,
};

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
