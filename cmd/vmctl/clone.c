#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/terminal.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

/* What became of each, a line for it. */
static enum outcome tell(const struct invocation *in, const json_t *reply)
{
    const json_t *clone, *note;
    enum outcome outcome = OUTCOME_DONE;
    size_t i;

    json_array_foreach (json_object_get(reply, "notes"), i, note)
        say(in, "note: of each, %s", json_string_value(note));
    json_array_foreach (json_object_get(reply, "clones"), i, clone) {
        const char *name = member_text(clone, "name"), *reason = member_text(clone, "reason");

        if (*reason) {
            complain("%s%s%s", has_prefix(reason, name) ? "" : name, has_prefix(reason, name) ? "" : ": ", reason);
            outcome = OUTCOME_FAILED;
        } else {
            say(in, "%s: %s", name, member_text(json_object_get(clone, "vm"), "state"));
        }
        vm_view_complete(json_object_get(clone, "vm"));
    }
    if (in->json)
        put_json(json_object_get(reply, "clones"));
    return outcome;
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    struct snapshot_name from;
    enum outcome outcome = snapshot_name_read(in, in->args[0], NULL, &from);

    if (outcome == OUTCOME_DONE)
        outcome = snapshot_mode_check(in);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->count < 0 || !in->pattern)
        return complain_usage(in->verb, "how many, and how are they called? Give --count and --name");
    if (!strstr(in->pattern, "%d"))
        return complain_usage(in->verb, "--name: expected a name with %%d in it, such as web-%%d, got \"%s\"", in->pattern);
    json_t *parameters = snapshot_parameters(&from);
    json_object_set_new(parameters, "count", must_json(json_integer(in->count)));
    json_object_set_new(parameters, "name", must_json(json_string(in->pattern)));
    if (in->mode)
        json_object_set_new(parameters, "mode", must_json(json_string(in->mode)));
    outcome = snapshot_call_consume(in, "Clone", "cloning", in->args[0], parameters, &reply);
    return outcome == OUTCOME_DONE ? tell(in, reply) : outcome;
}

static const struct flag flags[] = {
    { "count", 0, FLAG_NUMBER, "N", "how many", offsetof(struct invocation, count), NULL },
    { "name", 0, FLAG_TEXT, "PATTERN", "their names: %d stands for 1, 2, 3 …", offsetof(struct invocation, pattern), NULL },
    FLAG_MODE,
    FLAGS_END,
};

const struct verb verb_clone = {
    .name = "clone",
    .args = "VM/NAME",
    .group = "snapshots",
    .summary = "make several VMs that go on from one snapshot",
    .details =
        "Each has disks of its own on top of the snapshot's, and addresses of its own; host ports are not forwarded. Nothing is begun\n"
        "when one of the names is taken.",
    .example = "vmctl clone web/before-upgrade --count 4 --name web-%d",
    .flags = flags,
    .takes = TAKES_ONE_SNAPSHOT,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
