#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome delete_one(const struct invocation *in, const char *text, json_t *results)
{
    auto_json json_t *reply = NULL;
    struct snapshot_name name;
    enum outcome outcome = snapshot_name_read(in, text, NULL, &name);

    if (outcome == OUTCOME_DONE)
        outcome = snapshot_call_consume(in, "SnapshotDelete", "deleting", text, snapshot_parameters(&name), &reply);
    if (outcome == OUTCOME_DONE)
        say(in, "%s: deleted", text);
    json_array_append_new(results, must_json(json_pack("{s:s, s:b}", "snapshot", text, "done", outcome == OUTCOME_DONE)));
    return outcome;
}

static enum outcome run(const struct invocation *in) { return each_argument(in, delete_one); }

const struct verb verb_snapshot_delete = {
    .name = "snapshot delete",
    .args = "VM/NAME...",
    .group = "snapshots",
    .summary = "delete snapshots that nothing needs any more",
    .details = "Refused while a VM's memory or disks still come from a snapshot's files.",
    .example = "vmctl snapshot delete web/before-upgrade",
    .takes = TAKES_SNAPSHOTS,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
