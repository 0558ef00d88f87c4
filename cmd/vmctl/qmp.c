#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    const char *name = in->args[0];
    auto_json json_t *reply = NULL, *arguments = NULL;
    struct err err = ERR_INIT;

    enum outcome outcome = name_check(in, name);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->n_args > 2 && json_parse(in->args[2], strlen(in->args[2]), &arguments, &err) < 0)
        return complain_usage(in->verb, "the arguments are no JSON: %s", err.text);
    if (arguments && !json_is_object(arguments))
        return complain_usage(in->verb, "the arguments must be a JSON object");
    json_t *parameters = must_json(json_pack("{s:s, s:s}", "name", name, "command", in->args[1]));
    if (arguments)
        json_object_set(parameters, "arguments", arguments);
    outcome = manager_call_consume(in, "Qmp", name, parameters, &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    const json_t *result = json_object_get(reply, "result"), *returned = json_object_get(result, "return");
    put_json(returned ? returned : result);
    return OUTCOME_DONE;
}

const struct verb verb_qmp = {
    .name = "qmp",
    .args = "NAME COMMAND [JSON]",
    .group = "act",
    .summary = "send QEMU a QMP command and print what it returns",
    .example = "vmctl qmp web query-status\nvmctl qmp web human-monitor-command '{\"command-line\": \"info network\"}'",
    .takes = TAKES_ONE_VM,
    .min_args = 2,
    .max_args = 3,
    .run = run,
};
