#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    json_t *parameters = must_json(json_object()), *left, *one;
    enum outcome outcome;
    size_t i;

    if (in->off)
        json_object_set_new(parameters, "off", json_true());
    else if (in->count >= 0)
        json_object_set_new(parameters, "parallel", must_json(json_integer(in->count)));
    outcome = snapshot_call_consume(in, "Drain", "draining", "the host", parameters, &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_object_del(reply, "progress");
    if (in->json)
        put_json(reply);
    left = json_object_get(reply, "left");
    json_array_foreach (left, i, one) {
        complain("%s is still there: %s", member_text(one, "name"), member_text(one, "reason"));
        outcome = OUTCOME_FAILED;
    }
    if (outcome == OUTCOME_DONE)
        say(in, in->off ? "the drain is called off: VMs that are wanted start again"
                        : "drained: no VM runs, and none starts until the host has "
                          "rebooted (or: vmctl drain --off)");
    return outcome;
}

static const struct flag flags[] = {
    { "parallel", 0, FLAG_NUMBER, "N", "how many guests shut down at a time (8)", offsetof(struct invocation, count), NULL },
    { "off", 0, FLAG_SET, NULL, "call it off: VMs that are wanted start again", offsetof(struct invocation, off), NULL },
    FLAGS_END,
};

const struct verb verb_drain = {
    .name = "drain",
    .args = "",
    .group = "act",
    .summary = "shut all guests down before the host goes down",
    .details =
        "Newest first, each as with stop. What is wanted stays: the VMs start again with the host's next boot, and none before that. It is\n"
        "what holdfast-drain.service does when the host shuts down. The manager does the work, also when vmctl goes away.",
    .example = "vmctl drain\nvmctl drain --off",
    .flags = flags,
    .takes = TAKES_NOTHING,
    .run = run,
};
