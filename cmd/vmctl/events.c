#include <errno.h>
#include <poll.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

/* One event or gap. False when nobody reads any more. */
static bool show(const struct invocation *in, const json_t *reply)
{
    const json_t *event = json_object_get(reply, "event"), *gap = json_object_get(reply, "gap");
    auto_free char *line = NULL;
    int r = 0;

    if (in->json)
        return json_is_object(event) ? put_json_line(event) : json_is_object(gap) ? put_json_line(reply) : true;
    if (json_is_object(event))
        r = str_format(&line, "%s %s #%lld %s: %s", member_text(event, "at"), member_text(event, "name"),
                       (long long)member_int(event, "seq"), member_text(event, "type"), member_text(event, "text"));
    else if (json_is_object(gap))
        r = str_format(&line, "- %s: %lld events are no longer kept", member_text(gap, "name"), (long long)member_int(gap, "lost"));
    else
        return true;
    if (r < 0)
        must(NULL);
    return put_line(line);
}

/* Waits for the manager, and for the reader of our output to go away. False: it has. */
static bool wait_for(struct varlink_client *client)
{
    struct pollfd fds[] = { { .fd = varlink_client_fd(client), .events = POLLIN }, { .fd = STDOUT_FILENO } };

    while (!varlink_client_pending(client)) {
        if (poll(fds, ARRAY_LEN(fds), -1) < 0 && errno != EINTR)
            return true;
        if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL))
            return false;
        if (fds[0].revents)
            return true;
    }
    return true;
}

static json_t *make_parameters(const struct invocation *in)
{
    json_t *parameters = must_json(json_pack("{s:b}", "follow", in->follow));

    if (in->n_args) {
        json_t *names = must_json(json_array());
        for (size_t i = 0; i < in->n_args; i++)
            json_array_append_new(names, must_json(json_string(in->args[i])));
        json_object_set_new(parameters, "names", names);
    }
    if (in->since >= 0)
        json_object_set_new(parameters, "since", must_json(json_integer(in->since)));
    return parameters;
}

static enum outcome run(const struct invocation *in)
{
    auto_varlink_client struct varlink_client *client = NULL;
    struct err err = ERR_INIT;
    enum outcome outcome = OUTCOME_DONE;

    for (size_t i = 0; i < in->n_args && outcome == OUTCOME_DONE; i++)
        outcome = name_check(in, in->args[i]);
    if (outcome == OUTCOME_DONE)
        outcome = manager_connect(in, &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    int r = varlink_client_more_consume(client, MANAGER_INTERFACE ".Events", make_parameters(in), &err);
    for (bool more = r >= 0; more;) {
        auto_json json_t *reply = NULL;
        if (!wait_for(client))
            return OUTCOME_DONE;
        r = varlink_client_next(client, -1, &reply, &err);
        more = r == 1;
        if (r >= 0 && !show(in, reply))
            return output_lost();
        if (r == -EREMOTEIO) {
            complain_call(in, in->n_args == 1 ? in->args[0] : NULL, r, varlink_client_error(client), reply, &err);
            return outcome_of_call(r, varlink_client_error(client));
        }
    }
    if (r < 0)
        complain_call(in, NULL, r, NULL, NULL, &err);
    return outcome_of_call(r, NULL);
}

static const struct flag flags[] = { FLAG_FOLLOW, FLAG_SINCE, FLAGS_END };

const struct verb verb_events = {
    .name = "events",
    .args = "[NAME...]",
    .group = "look",
    .summary = "print what happened to VMs",
    .details = "Every event of a VM has a number. With --json each event is one line.",
    .example = "vmctl events web --follow",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
