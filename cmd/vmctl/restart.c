#include "cmd/vmctl/change.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *parameters = change_stop_parameters(in);
    const struct change change = {
        .method = "Restart",
        .doing = "restarting",
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
