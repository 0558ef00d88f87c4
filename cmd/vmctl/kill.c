#include "cmd/vmctl/change.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *parameters = must_json(json_object());
    int sig;

    if (in->signal) {
        if (text_parse_signal(in->signal, &sig) < 0)
            return complain_usage(in->verb, "--signal: \"%s\" is no signal (use a name like TERM, or a number)", in->signal);
        json_object_set_new(parameters, "signal", must_json(json_integer(sig)));
    }
    const struct change change = {
        .method = "Kill",
        .doing = "killing",
        .parameters = parameters,
        .timeout_ms = -1,
        .wait = !in->no_wait,
        .told = change_told_state,
    };
    return change_verb(in, &change);
}

static const struct flag flags[] = {
    FLAG_ALL,
    { "signal", 's', FLAG_TEXT, "SIGNAL", "a name or a number (KILL)", offsetof(struct invocation, signal),
      "KILL TERM INT QUIT ABRT STOP CONT" },
    FLAG_NO_WAIT,
    FLAGS_END,
};

const struct verb verb_kill = {
    .name = "kill",
    .args = "NAME...",
    .group = "act",
    .summary = "send QEMU a signal; the VM ends as if its plug were pulled",
    .example = "vmctl kill web\nvmctl kill --signal TERM web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
