#include <errno.h>
#include <poll.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static bool show(const struct invocation *in, const json_t *reply)
{
    const json_t *event = json_object_get(reply, "event"), *gap = json_object_get(reply, "gap");
    auto_free char *line = NULL;
    int r = 0;

    if (in->json)
        return json_is_object(event) ? put_json_line(event) : json_is_object(gap) ? put_json_line(reply) : true;
    if (json_is_object(event))
        r = str_format(&line, "%s #%lld %s: %s", member_text(event, "at"), (long long)member_int(event, "seq"), member_text(event, "type"),
                       member_text(event, "text"));
    else if (json_is_object(gap))
        r = str_format(&line, "- %lld events are no longer kept", (long long)member_int(gap, "lost"));
    else
        return true;
    if (r < 0)
        must(NULL);
    return put_line(line);
}

/* The number after which nothing is to be expected unless we follow. */
static json_int_t reached(const json_t *reply)
{
    const json_t *event = json_object_get(reply, "event"), *gap = json_object_get(reply, "gap");

    return json_is_object(event) ? member_int(event, "seq") : json_is_object(gap) ? member_int(gap, "next") - 1 : 0;
}

/* False when the reader of our output has gone. A shim that stops answering is only a failure when we don't follow. */
static bool wait_for(const struct invocation *in, struct varlink_client *client)
{
    struct pollfd fds[] = { { .fd = varlink_client_fd(client), .events = POLLIN }, { .fd = STDOUT_FILENO } };

    if (varlink_client_pending(client))
        return true;
    while (poll(fds, ARRAY_LEN(fds), in->follow ? -1 : SHIM_TIMEOUT_MS) < 0 && errno == EINTR)
        ;
    return !(fds[1].revents & (POLLERR | POLLHUP | POLLNVAL));
}

static enum outcome stream(const struct invocation *in, struct varlink_client *client, json_int_t since)
{
    struct err err = ERR_INIT;
    json_int_t last = -1, seen = since;

    for (;;) {
        auto_json json_t *reply = NULL;
        if (!wait_for(in, client))
            return OUTCOME_DONE;
        int r = varlink_client_next(client, SHIM_TIMEOUT_MS, &reply, &err);
        /* The end of the stream is the end of the shim: all is told. */
        if (in->follow && (r == -ECONNRESET || r == -EPIPE || r == -ENOTCONN))
            return OUTCOME_DONE;
        if (r < 0)
            return shim_complain(in->args[0], client, r, reply, &err);
        if (!show(in, reply))
            return output_lost();
        /* The first reply says how far the events go. */
        if (last < 0)
            last = member_int(json_object_get(reply, "status"), "event_seq");
        if (reached(reply) > seen)
            seen = reached(reply);
        if (r == 0 || (!in->follow && seen >= last))
            return OUTCOME_DONE;
    }
}

static enum outcome run(const struct invocation *in)
{
    auto_varlink_client struct varlink_client *client = NULL;
    struct err err = ERR_INIT;
    json_int_t since = in->since < 0 ? 0 : in->since;

    enum outcome outcome = shim_connect(in, in->args[0], &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_t *parameters = must_json(json_pack("{s:I}", "since", since));
    int r = varlink_client_more_consume(client, SHIM_INTERFACE ".Monitor", parameters, &err);
    if (r < 0)
        return shim_complain(in->args[0], client, r, NULL, &err);
    return stream(in, client, since);
}

static const struct flag flags[] = { FLAG_FOLLOW, FLAG_SINCE, FLAGS_END };

const struct verb verb_shim_events = {
    .name = "shim events",
    .args = "NAME",
    .group = "shim",
    .summary = "print what a shim has seen, manager or not",
    .details = "With --follow until the shim ends. With --json each event is one line.",
    .example = "vmctl shim events web --since 40",
    .flags = flags,
    .takes = TAKES_ONE_VM,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
