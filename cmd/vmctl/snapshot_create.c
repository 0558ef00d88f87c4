#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static void tell(const struct invocation *in, const json_t *snapshot)
{
    char present[BYTES_MAX], ram[BYTES_MAX];
    uint64_t pause_us = (uint64_t)member_int(snapshot, "pause_us");

    say(in, "%s/%s: taken (%s of %s of memory; %s %llu.%llu ms)", member_text(snapshot, "vm"), member_text(snapshot, "name"),
        text_bytes((uint64_t)member_int(snapshot, "present"), present), text_bytes((uint64_t)member_int(snapshot, "ram_size"), ram),
        "the guest stood still for", (unsigned long long)(pause_us / 1000), (unsigned long long)(pause_us % 1000 / 100));
}

static enum outcome run(const struct invocation *in)
{
    const char *vm = in->args[0], *name = in->n_args > 1 ? in->args[1] : NULL;
    auto_json json_t *reply = NULL;
    enum outcome outcome = name_check(in, vm);

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (name && !name_is_valid(name))
        return complain_usage(in->verb, "\"%s\" is no name of a snapshot (%s)", name, NAME_RULE);
    json_t *parameters = must_json(json_pack("{s:s, s:s*, s:b}", "name", vm, "snapshot", name, "stop", (int)in->standing));
    outcome = snapshot_call_consume(in, "SnapshotCreate", "snapshot of", vm, parameters, &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_t *snapshot = json_object_get(reply, "snapshot");
    snapshot_complete(snapshot);
    if (in->json)
        put_json(snapshot);
    else
        tell(in, snapshot);
    return OUTCOME_DONE;
}

static const struct flag flags[] = {
    { "stop", 0, FLAG_SET, NULL, "let the guest stand still until all is written", offsetof(struct invocation, standing), NULL },
    FLAGS_END,
};

const struct verb verb_snapshot_create = {
    .name = "snapshot create",
    .args = "VM [NAME]",
    .group = "snapshots",
    .summary = "take a snapshot of a VM that runs: memory, devices, disks",
    .details = "The guest goes on after a few milliseconds, while its memory is still being copied. Without NAME it is the date and time.\n"
               "The VM's shim does it: it is finished also when vmctl or the manager goes away.",
    .example = "vmctl snapshot create web before-upgrade",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 2,
    .run = run,
};
