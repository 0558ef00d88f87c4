#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    json_t *vm;
    size_t i;
    enum outcome outcome = manager_call_consume(in, "List", NULL, NULL, &reply);

    if (outcome != OUTCOME_DONE)
        return outcome;
    const json_t *vms = json_object_get(reply, "vms");
    if (!in->json)
        return vm_view_list(in, vms);
    json_array_foreach (vms, i, vm)
        vm_view_complete(vm);
    put_json(vms);
    return OUTCOME_DONE;
}

const struct verb verb_list = {
    .name = "list",
    .args = "",
    .group = "look",
    .summary = "show every VM in a line",
    .details = "WANTED is what was asked for, STATE what is. PID is QEMU's. With -q only the names are printed.",
    .example = "vmctl list\nvmctl list --json | jq -r '.[] | select(.state != .wanted) | .name'",
    .takes = TAKES_NOTHING,
    .run = run,
};
