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
        outcome = snapshot_call_consume(in, "SnapshotWarm", "warming", in->args[0], snapshot_parameters(&name), &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_t *snapshot = json_object_get(reply, "snapshot");
    snapshot_complete(snapshot);
    if (in->json)
        put_json(snapshot);
    say(in, "%s: warm, it is known which memory a restore needs first", in->args[0]);
    return OUTCOME_DONE;
}

const struct verb verb_snapshot_warm = {
    .name = "snapshot warm",
    .args = "VM/NAME",
    .group = "snapshots",
    .summary = "learn which memory a restore of a snapshot needs first",
    .details =
        "Restores it once, unseen and without network, until the guest has settled, and keeps what it asked for. Later restores load that\n"
        "first. A first restore in lazy mode learns the same.",
    .example = "vmctl snapshot warm web/before-upgrade",
    .takes = TAKES_ONE_SNAPSHOT,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
