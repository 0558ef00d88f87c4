#include <errno.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

enum { CALL_TIMEOUT_MS = 30 * 1000 };

static enum outcome call_stream(const struct invocation *in, struct varlink_client *client, const char *method, json_t *parameters)
{
    struct err err = ERR_INIT;
    int r = varlink_client_more_consume(client, method, parameters, &err);

    for (bool more = r >= 0; more;) {
        auto_json json_t *reply = NULL;
        r = varlink_client_next(client, in->timeout_ms < 0 ? -1 : (int)in->timeout_ms, &reply, &err);
        more = r == 1;
        if (r < 0)
            return shim_complain(in->args[0], client, r, reply, &err);
        if (!put_json_line(reply))
            return output_lost();
    }
    return r < 0 ? shim_complain(in->args[0], client, r, NULL, &err) : OUTCOME_DONE;
}

static enum outcome call_once(const struct invocation *in, struct varlink_client *client, const char *method, json_t *parameters)
{
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;
    int timeout_ms = in->timeout_ms < 0 ? CALL_TIMEOUT_MS : (int)in->timeout_ms;

    int r = varlink_client_call_consume(client, method, parameters, timeout_ms, &reply, &err);
    if (r < 0)
        return shim_complain(in->args[0], client, r, reply, &err);
    put_json(reply);
    return OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *parameters = NULL;
    auto_free char *method = NULL;
    struct err err = ERR_INIT;

    if (in->n_args > 2 && json_parse(in->args[2], strlen(in->args[2]), &parameters, &err) < 0)
        return complain_usage(in->verb, "the parameters are no JSON: %s", err.text);
    if (parameters && !json_is_object(parameters))
        return complain_usage(in->verb, "the parameters must be a JSON object");
    bool full = strchr(in->args[1], '.');
    if (str_format(&method, "%s%s%s", full ? "" : SHIM_INTERFACE, full ? "" : ".", in->args[1]) < 0)
        must(NULL);
    if (streq(method, SHIM_INTERFACE ".Console"))
        return complain_usage(in->verb, "Console needs a terminal of its own, see: vmctl console %s", in->args[0]);
    enum outcome outcome = shim_connect(in, in->args[0], &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    return in->more ? call_stream(in, client, method, steal_ptr(&parameters)) : call_once(in, client, method, steal_ptr(&parameters));
}

static const struct flag flags[] = {
    { "more", 0, FLAG_SET, NULL, "a call with many replies, one JSON line each (Monitor)", offsetof(struct invocation, more), NULL },
    { "timeout", 't', FLAG_DURATION, "DURATION", "for each reply (30s; with --more none)", offsetof(struct invocation, timeout_ms), NULL },
    FLAGS_END,
};

const struct verb verb_shim_call = {
    .name = "shim call",
    .args = "NAME METHOD [JSON]",
    .group = "shim",
    .summary = "call a method of io.holdfast.Shim and print the reply",
    .details = "METHOD is one of the interface, or a full name like org.varlink.service.GetInfo. Calls that change something name the\n"
               "incarnation they mean, see: vmctl shim status NAME.",
    .example = "vmctl shim call web GetPlan\nvmctl shim call web Stop '{\"incarnation\": 3}'",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 2,
    .max_args = 3,
    .run = run,
};
