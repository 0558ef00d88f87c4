#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_memory.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_strv struct strv names = { 0 };
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *all = must_json(json_array());

    enum outcome outcome = names_resolve(in, &names);
    if (outcome == OUTCOME_DONE)
        outcome = manager_connect(in, &client);
    for (size_t i = 0; client && i < names.n; i++) {
        auto_json json_t *reply = NULL;
        json_t *parameters = must_json(json_pack("{s:s}", "name", names.items[i]));
        enum outcome one = manager_call_on_consume(in, client, "Get", names.items[i], parameters, &reply);
        outcome = outcome_merge(outcome, one);
        if (one == OUTCOME_UNREACHABLE)
            break;
        if (one != OUTCOME_DONE)
            continue;
        vm_view_complete(json_object_get(reply, "vm"));
        vm_memory_add(client, json_object_get(reply, "vm"));
        if (json_object_get(reply, "allocated"))
            json_object_set(json_object_get(reply, "vm"), "allocated", json_object_get(reply, "allocated"));
        if (in->json)
            json_array_append(all, json_object_get(reply, "vm"));
        else
            vm_view_detail(in, json_object_get(reply, "vm"), json_object_get(reply, "paths"));
    }
    if (in->json && outcome != OUTCOME_USAGE && client)
        put_json(all);
    return outcome;
}

static const struct flag flags[] = { FLAG_ALL, FLAGS_END };

const struct verb verb_status = {
    .name = "status",
    .args = "NAME...",
    .group = "look",
    .summary = "show VMs in a few lines each",
    .example = "vmctl status web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
