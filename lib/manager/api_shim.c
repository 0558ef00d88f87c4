/* The methods that are handed on to the VM's shim, and change no wish. */
#include <errno.h>

#include "lib/manager/api.h"
#include "lib/manager/call.h"
#include "lib/manager/link.h"
#include "lib/manager/state.h"

enum {
    ACT_TIMEOUT_MS = 12 * 1000, /* more than a shim gives QEMU, so that the one that doesn't answer is the one that is blamed */
    QMP_TIMEOUT_MS = 30 * 1000,
};

#define SHIM_INTERFACE "io.holdfast.Shim"

void api_hand_on_error(struct varlink_call *call, struct vm *vm, const struct varlink_reply *r)
{
    const char *reason = json_string_value(json_object_get(r->parameters, "reason"));
    const char *class = json_string_value(json_object_get(r->parameters, "class"));
    const char *id = json_string_value(json_object_get(r->parameters, "id"));

    if (streq(r->error, "org.varlink.service.MethodNotFound")) {
        api_refuse(call, vm->name, "the shim of %s is older than this manager and can't do that: it gets a new one when %s is restarted",
                   vm->name, vm->name);
        return;
    }
    if (!reason)
        reason = r->error;
    if (streq(r->error, SHIM_INTERFACE ".StaleIncarnation") || streq(r->error, SHIM_INTERFACE ".WrongState"))
        api_refuse(call, vm->name, "%s", reason);
    else if (streq(r->error, SHIM_INTERFACE ".TimedOut"))
        api_timed_out(call, vm->name, "%s", reason);
    else
        api_fail(call, vm->name, class ? class : id ? id : "shim", NULL, "%s", reason);
}

static void answered(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    struct answer *a = arg;

    if (r->failure == -ETIMEDOUT)
        link_unanswered(vm);
    if (!a->call) {
        /* nobody wants to know any more */
    } else if (r->failure == -ETIMEDOUT) {
        api_fail(a->call, vm->name, "unresponsive", NULL,
                 "the shim of %s (process %d) doesn't answer; the VM was left alone, but may still do this when it wakes up", vm->name,
                 (int)vm->shim_pid);
    } else if (r->failure < 0) {
        api_fail(a->call, vm->name, "lost", NULL, "the shim of %s went away before it answered", vm->name);
    } else if (r->error) {
        api_hand_on_error(a->call, vm, r);
    } else {
        varlink_call_reply_consume(a->call, json_incref((json_t *)(uintptr_t)r->parameters));
    }
    free(a);
}

static void hand_on_consume(struct varlink_call *call, struct vm *vm, const char *method, json_t *parameters, uint64_t timeout_ms)
{
    struct answer *a;
    int r;

    if (vm->view == VIEW_UNRESPONSIVE || vm->presence != PRESENCE_SHIM || !vm->answered) {
        json_decref(parameters);
        if (vm->view == VIEW_UNRESPONSIVE)
            api_unresponsive(call, vm);
        else
            api_refuse(call, vm->name, "%s is %s", vm->name, enum_to_string(&vm_view_names, vm->view));
        return;
    }
    a = calloc(1, sizeof(*a));
    if (!a) {
        json_decref(parameters);
        api_fail_memory(call);
        return;
    }
    r = shim_call_consume(vm, method, parameters, timeout_ms, answered, a);
    if (r < 0) {
        free(a);
        if (r == -EAGAIN)
            link_unanswered(vm);
        api_fail(call, vm->name, "unreachable", NULL, "can't reach the shim of %s: %s", vm->name, strerror(-r));
        return;
    }
    answer_bind(a, call);
}

static void simple(struct varlink_call *call, const json_t *parameters, void *userdata, const char *method)
{
    struct vm *vm = api_vm(userdata, call, parameters);

    if (vm)
        hand_on_consume(call, vm, method, json_pack("{s:I}", "incarnation", (json_int_t)vm->incarnation), ACT_TIMEOUT_MS);
}

void api_pause(struct varlink_call *call, const json_t *parameters, void *userdata) { simple(call, parameters, userdata, "Pause"); }

void api_resume(struct varlink_call *call, const json_t *parameters, void *userdata) { simple(call, parameters, userdata, "Resume"); }

void api_reset(struct varlink_call *call, const json_t *parameters, void *userdata) { simple(call, parameters, userdata, "Reset"); }

void api_qmp(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    json_t *command = json_object_get(parameters, "command"), *arguments = json_object_get(parameters, "arguments");

    if (vm)
        hand_on_consume(call, vm, "Qmp",
                        json_pack("{s:O, s:O*, s:I}", "command", command, "arguments", json_is_object(arguments) ? arguments : NULL,
                                  "incarnation", (json_int_t)vm->incarnation),
                        QMP_TIMEOUT_MS);
}

void api_memory(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);

    if (vm)
        hand_on_consume(call, vm, "GetMemory", NULL, SHIM_TIMEOUT_MS);
}
