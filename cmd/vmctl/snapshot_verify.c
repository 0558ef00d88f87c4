#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    struct snapshot_name name;
    enum outcome outcome = snapshot_name_read(in, in->args[0], NULL, &name);

    if (outcome == OUTCOME_DONE)
        outcome = snapshot_call_consume(in, "SnapshotVerify", "verifying", in->args[0], snapshot_parameters(&name), &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_object_del(reply, "progress");
    if (in->json)
        put_json(reply);
    say(in, "%s: whole, %lld pages compared", in->args[0], (long long)member_int(reply, "pages"));
    return OUTCOME_DONE;
}

const struct verb verb_snapshot_verify = {
    .name = "snapshot verify",
    .args = "VM/NAME",
    .group = "snapshots",
    .summary = "read a whole snapshot and compare its checksums",
    .details = "Restores don't do that: they would take as long. The message names the first page that is wrong and how many are.",
    .example = "vmctl snapshot verify web/before-upgrade",
    .takes = TAKES_ONE_SNAPSHOT,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
