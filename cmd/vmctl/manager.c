#include "cmd/vmctl/manager.h"

#include <errno.h>

#include "cmd/vmctl/output.h"
#include "lib/base/json.h"
#include "proto/launch.h"

char *manager_socket(const struct invocation *in)
{
    char *path = NULL;

    if (str_format(&path, "%s/%s", in->dirs.run, FILE_MANAGER_SOCKET) < 0)
        must(NULL);
    return path;
}

bool manager_is_away(int r)
{
    return r == -ENOENT || r == -ENOTDIR || r == -ECONNREFUSED || r == -ECONNRESET || r == -EPIPE || r == -EAGAIN;
}

enum outcome manager_complain_connect(const struct invocation *in, int r, const struct err *err)
{
    auto_free char *path = manager_socket(in);

    if (r == -EACCES || r == -EPERM) {
        complain("%s: permission denied (members of the group holdfast may manage VMs: usermod -aG holdfast USER, or run this as root)",
                 path);
        return OUTCOME_REFUSED;
    }
    if (manager_is_away(r))
        complain("no manager answers on %s (start it: systemctl start holdfastd, or run holdfastd); running VMs are not affected", path);
    else
        complain("%s", err->text);
    return OUTCOME_UNREACHABLE;
}

enum outcome manager_connect(const struct invocation *in, struct varlink_client **ret_client)
{
    auto_free char *path = manager_socket(in);
    struct err err = ERR_INIT;

    int r = varlink_client_connect(path, ret_client, &err);
    return r < 0 ? manager_complain_connect(in, r, &err) : OUTCOME_DONE;
}

/* The last word of "io.holdfast.Manager.NoSuchVM". */
static const char *short_name(const char *error)
{
    const char *dot = error ? strrchr(error, '.') : NULL;

    return dot ? dot + 1 : "";
}

enum outcome outcome_of_call(int r, const char *name)
{
    static const struct {
        const char *error;
        enum outcome outcome;
    } outcomes[] = {
        { "NoSuchVM", OUTCOME_NO_SUCH },         { "NoSuchSnapshot", OUTCOME_NO_SUCH },   { "NoSuchImage", OUTCOME_NO_SUCH },
        { "TimedOut", OUTCOME_TIMED_OUT },       { "Refused", OUTCOME_REFUSED },          { "WrongState", OUTCOME_REFUSED },
        { "StaleIncarnation", OUTCOME_REFUSED }, { "PermissionDenied", OUTCOME_REFUSED },
    };

    if (r >= 0)
        return OUTCOME_DONE;
    if (r == -ETIMEDOUT)
        return OUTCOME_TIMED_OUT;
    if (r != -EREMOTEIO)
        return r == -ENOMEM || r == -EPROTO ? OUTCOME_FAILED : OUTCOME_UNREACHABLE;
    for (size_t i = 0; i < ARRAY_LEN(outcomes); i++)
        if (streq(short_name(name), outcomes[i].error))
            return outcomes[i].outcome;
    return OUTCOME_FAILED;
}

static void complain_remote(const char *vm, const char *error, const json_t *parameters, const struct err *err)
{
    const char *reason = member_text(parameters, "reason"), *detail = member_text(parameters, "detail");
    const char *colon = vm ? ": " : "", *who = vm ? vm : "";

    if (streq(short_name(error), "NoSuchVM")) {
        const char *name = member_text(parameters, "name");
        complain("%s: no such VM (see: vmctl list)", *name ? name : who);
        return;
    }
    if (streq(short_name(error), "PermissionDenied")) {
        complain("%s%spermission denied (members of the group holdfast may manage VMs: usermod -aG holdfast USER, or run this as root)",
                 who, colon);
        return;
    }
    if (!*reason)
        reason = *err->text ? err->text : error;
    /* A reason that begins with the VM's name needs no second one in front. */
    if (vm && has_prefix(reason, vm) && strchr(" :", reason[strlen(vm)]))
        colon = who = "";
    bool more = *detail && !strstr(reason, detail);
    complain("%s%s%s%s%s", who, colon, reason, more ? ": " : "", more ? detail : "");
}

void complain_call(const struct invocation *in, const char *vm, int r, const char *error, const json_t *parameters, const struct err *err)
{
    const char *colon = vm ? ": " : "", *who = vm ? vm : "";

    if (r == -EREMOTEIO)
        complain_remote(vm, error ? error : "", parameters, err);
    else if (manager_is_away(r))
        complain("%s%sthe manager went away before it answered; running VMs are not affected (see: vmctl status%s%s)", who, colon,
                 vm ? " " : "", who);
    else
        complain("%s%s%s", who, colon, err && *err->text ? err->text : strerror(-r));
}

enum outcome manager_call_on_consume(const struct invocation *in, struct varlink_client *client, const char *method, const char *vm,
                                     json_t *parameters, json_t **ret_reply)
{
    auto_free char *full = NULL;
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;

    if (str_format(&full, MANAGER_INTERFACE ".%s", method) < 0)
        must(NULL);
    int r = varlink_client_call_consume(client, full, parameters, MANAGER_TIMEOUT_MS, &reply, &err);
    if (r == -ETIMEDOUT) {
        auto_free char *path = manager_socket(in);
        complain("the manager on %s doesn't answer (%d s); running VMs are not affected (see: vmctl shim list)", path,
                 MANAGER_TIMEOUT_MS / 1000);
        return OUTCOME_UNREACHABLE;
    }
    if (r < 0) {
        complain_call(in, vm, r, varlink_client_error(client), reply, &err);
        return outcome_of_call(r, varlink_client_error(client));
    }
    *ret_reply = steal_ptr(&reply);
    return OUTCOME_DONE;
}

enum outcome manager_call_consume(const struct invocation *in, const char *method, const char *vm, json_t *parameters, json_t **ret_reply)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *owned = parameters;

    enum outcome outcome = manager_connect(in, &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    return manager_call_on_consume(in, client, method, vm, steal_ptr(&owned), ret_reply);
}
