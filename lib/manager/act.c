#include "lib/manager/act.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/manager/call.h"
#include "lib/manager/link.h"
#include "lib/manager/state.h"

static void on_stop(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    const char *reason = json_string_value(json_object_get(r->parameters, "reason"));

    if (r->failure == -ETIMEDOUT) {
        link_unanswered(vm);
    } else if (r->error) {
        /* Another incarnation runs by now: its status says which, and that one is asked. */
        log_vm_warning(vm->name, "stop refused by its shim: %s", reason ? reason : r->error);
        vm_changed(vm);
    }
}

void act_stop(struct vm *vm)
{
    json_t *parameters = json_pack("{s:I}", "incarnation", (json_int_t)vm->incarnation);
    int r;

    if (parameters && vm->wanted.timeout_ms > 0)
        json_object_set_new(parameters, "timeout_ms", json_integer((json_int_t)vm->wanted.timeout_ms));
    if (parameters && vm->wanted.force)
        json_object_set_new(parameters, "force", json_true());
    vm->stop_due = false;
    vm->stop_sent = vm->incarnation;
    r = shim_call_consume(vm, "Stop", parameters, SHIM_TIMEOUT_MS, on_stop, NULL);
    if (r == -EAGAIN)
        link_unanswered(vm);
    else if (r < 0)
        log_vm_debug(vm->name, "can't ask its shim to stop: %s", strerror(-r)); /* it is about to go, as its line will tell */
}
