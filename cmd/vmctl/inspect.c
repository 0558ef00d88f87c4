#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_memory.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    const char *name = in->args[0];
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *reply = NULL;

    enum outcome outcome = name_check(in, name);
    if (outcome == OUTCOME_DONE)
        outcome = manager_connect(in, &client);
    if (outcome == OUTCOME_DONE)
        outcome = manager_call_on_consume(in, client, "Inspect", name, must_json(json_pack("{s:s}", "name", name)), &reply);
    if (outcome == OUTCOME_DONE) {
        vm_view_complete(json_object_get(reply, "vm"));
        vm_memory_add(client, json_object_get(reply, "vm"));
        put_json(reply);
    }
    return outcome;
}

const struct verb verb_inspect = {
    .name = "inspect",
    .args = "NAME",
    .group = "look",
    .summary = "print all that is known of a VM, as JSON",
    .details = "The spec as written, the launch plan that runs (with QEMU's command line), and the plan a start would use now.",
    .example = "vmctl inspect web | jq .plan.qemu.argv",
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
