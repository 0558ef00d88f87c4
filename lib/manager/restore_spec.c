#include "lib/manager/restore_spec.h"

#include <errno.h>
#include <stdarg.h>

#include "lib/base/util.h"
#include "lib/spec/claims.h"

static bool is_tap(const json_t *network) { return streq_opt(json_string_value(json_object_get(network, "mode")), "tap"); }

__attribute__((format(printf, 2, 3))) static int note(json_t *notes, const char *fmt, ...)
{
    va_list args;
    int r;

    va_start(args, fmt);
    r = json_array_append_new(notes, json_vsprintf(fmt, args));
    va_end(args);
    return r < 0 ? -ENOMEM : 0;
}

/* Drops the forwards from host ports that are fixed. How many, or -ENOMEM. */
static int drop_forwards(json_t *network, bool all)
{
    json_t *forwards = json_object_get(network, "forward");
    int dropped = 0;

    for (size_t i = json_array_size(forwards); i > 0; i--) {
        const char *host = json_string_value(json_object_get(json_array_get(forwards, i - 1), "host"));

        struct in_addr addr;

        if (!all && host && host_port_is_auto(host, &addr))
            continue;
        if (json_array_remove(forwards, i - 1) < 0)
            return -ENOMEM;
        dropped++;
    }
    if (forwards && json_array_size(forwards) == 0)
        (void)json_object_del(network, "forward");
    return dropped;
}

static int separate_network(json_t *spec, const char *of, json_t *notes)
{
    json_t *network;
    int dropped = 0;
    size_t i;

    json_array_foreach (json_object_get(spec, "network"), i, network) {
        int r = drop_forwards(network, false);

        if (r < 0)
            return r;
        dropped += r;
        (void)json_object_del(network, "mac");
    }
    if (dropped == 0)
        return 0;
    return note(notes, "its host port%s not forwarded: %s has %s", dropped == 1 ? " is" : "s are", of, dropped == 1 ? "it" : "them");
}

static int separate_vsock(json_t *spec, json_t *notes, const char *of)
{
    json_t *vsock = json_object_get(spec, "vsock");

    if (!json_is_object(vsock) || !json_is_integer(json_object_get(vsock, "cid")))
        return 0;
    if (json_object_set_new(vsock, "cid", json_string("auto")) < 0)
        return -ENOMEM;
    return note(notes, "its vsock context id is given anew: %s has the one of the spec", of);
}

static int copy_named(const json_t *from, const char *name, json_t **ret)
{
    auto_json json_t *spec = json_deep_copy(from);

    if (!spec || json_object_set_new(spec, "name", json_string(name)) < 0)
        return -ENOMEM;
    *ret = steal_ptr(&spec);
    return 0;
}

int restore_spec_make(const json_t *from, const char *of, const char *name, json_t *notes, json_t **ret_spec)
{
    auto_json json_t *spec = NULL;
    int r = copy_named(from, name, &spec);

    if (r >= 0 && !streq(of, name))
        r = separate_network(spec, of, notes);
    if (r >= 0 && !streq(of, name))
        r = separate_vsock(spec, notes, of);
    if (r < 0)
        return r;
    *ret_spec = steal_ptr(&spec);
    return 0;
}

/* Without its probes it must be the same machine still, and one that asks the agent makes a channel for it. */
static int drop_health(json_t *spec)
{
    const json_t *probe;
    bool agent = false;
    size_t i;

    json_array_foreach (json_object_get(spec, "health"), i, probe)
        agent = agent || streq_opt(json_string_value(json_object_get(probe, "type")), "agent");
    (void)json_object_del(spec, "health");
    return agent && json_object_set_new(spec, "agent", json_true()) < 0 ? -ENOMEM : 0;
}

int restore_spec_make_hidden(const json_t *from, const char *name, json_t **ret_spec)
{
    auto_json json_t *spec = NULL;
    json_t *network, *vsock;
    size_t i;
    int r = copy_named(from, name, &spec);

    if (r < 0)
        return r;
    json_array_foreach (json_object_get(spec, "network"), i, network) {
        if (drop_forwards(network, true) < 0)
            return -ENOMEM;
        if (is_tap(network)) {
            (void)json_object_del(network, "mode");
            (void)json_object_del(network, "ifname");
        }
    }
    if (drop_health(spec) < 0)
        return -ENOMEM;
    vsock = json_object_get(spec, "vsock");
    if (json_is_object(vsock) && json_object_set_new(vsock, "cid", json_string("auto")) < 0)
        return -ENOMEM;
    if (json_object_set_new(spec, "restart", json_pack("{s:s}", "policy", "never")) < 0 ||
        json_object_set_new(spec, "stop", json_pack("{s:s}", "timeout", "0")) < 0)
        return -ENOMEM;
    *ret_spec = steal_ptr(&spec);
    return 0;
}

const char *restore_spec_same_tap(const json_t *spec, const json_t *other)
{
    const json_t *mine, *theirs;
    size_t i, k;

    json_array_foreach (json_object_get(spec, "network"), i, mine) {
        const char *name = json_string_value(json_object_get(mine, "ifname"));

        if (!is_tap(mine) || !name)
            continue;
        json_array_foreach (json_object_get(other, "network"), k, theirs) {
            if (is_tap(theirs) && streq_opt(json_string_value(json_object_get(theirs, "ifname")), name))
                return name;
        }
    }
    return NULL;
}
