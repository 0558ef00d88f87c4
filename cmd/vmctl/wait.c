#include "cmd/vmctl/change.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"
#include "proto/states.h"

/* The manager ends the wait itself; we go on a little longer than that, for its answer. */
enum { ANSWER_MS = 2000 };

static bool condition_is_known(const char *condition)
{
    return enum_from_string(&vm_view_names, condition) >= 0 || streq(condition, enum_to_string(&vm_health_names, HEALTH_HEALTHY));
}

static enum outcome complain_condition(const struct invocation *in, const char *condition)
{
    const char *best = NULL;
    unsigned limit = text_typo_limit(condition) + 1;

    for (int i = 0; i < VIEW_COUNT; i++) {
        unsigned d = text_distance(condition, enum_to_string(&vm_view_names, i));
        if (d < limit) {
            best = enum_to_string(&vm_view_names, i);
            limit = d;
        }
    }
    if (best)
        return complain_usage(in->verb, "--for: \"%s\" is no state (did you mean \"%s\"?)", condition, best);
    return complain_usage(in->verb, "--for: \"%s\" is neither a state nor \"healthy\"", condition);
}

static enum outcome run(const struct invocation *in)
{
    const char *condition = in->condition ? in->condition : enum_to_string(&vm_view_names, STATE_RUNNING);
    auto_json json_t *parameters = must_json(json_pack("{s:s}", "condition", condition));
    auto_free char *doing = NULL;

    if (!condition_is_known(condition))
        return complain_condition(in, condition);
    if (str_format(&doing, "not %s, waiting for it", condition) < 0)
        must(NULL);
    if (in->timeout_ms >= 0)
        json_object_set_new(parameters, "timeout_ms", must_json(json_integer(in->timeout_ms)));
    const struct change change = {
        .method = "Wait",
        .doing = doing,
        .parameters = parameters,
        .timeout_ms = in->timeout_ms < 0 ? -1 : in->timeout_ms + ANSWER_MS,
        .wait = true,
        .told = change_told_state,
    };
    return change_verb(in, &change);
}

static const struct flag flags[] = {
    FLAG_ALL,
    { "for", 0, FLAG_TEXT, "STATE", "a state, or healthy (running)", offsetof(struct invocation, condition),
      "running paused stopped exited failed backoff stopping healthy" },
    { "timeout", 't', FLAG_DURATION, "DURATION", "give up after this, with exit status 5", offsetof(struct invocation, timeout_ms), NULL },
    FLAGS_END,
};

const struct verb verb_wait = {
    .name = "wait",
    .args = "NAME...",
    .group = "act",
    .summary = "wait until VMs are in a state",
    .example = "vmctl wait web --for healthy --timeout 5m",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
