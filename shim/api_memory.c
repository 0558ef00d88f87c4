/* The methods of io.holdfast.Shim about the guest's memory: where it comes from, and snapshots. */
#include <errno.h>

#include "lib/base/json.h"
#include "shim/api.h"
#include "shim/ram.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

void api_get_memory(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    varlink_call_reply_consume(call, ram_to_wire(userdata));
}

/* ---- snapshots ---- */

/* Whoever asked for the one under way. It goes on without him. */
struct snapshot_call {
    struct vm *vm;
    struct varlink_call *call;
};

static void on_gone(void *arg)
{
    struct snapshot_call *s = arg;

    snapshot_unwatch(s->vm);
    free(s);
}

static void on_progress(void *arg, const char *phase, uint64_t done, uint64_t total)
{
    struct snapshot_call *s = arg;

    /* A caller that reads slowly gets the newer ones. */
    if (varlink_call_wants_more(s->call) && varlink_call_queued(s->call) == 0)
        (void)varlink_call_continue_consume(
            s->call, json_pack("{s{ss sI sI}}", "progress", "phase", phase, "done", (json_int_t)done, "total", (json_int_t)total));
}

static void on_ended(void *arg, json_t *record, const struct err *err)
{
    struct snapshot_call *s = arg;

    varlink_call_on_gone(s->call, NULL, NULL);
    if (record)
        varlink_call_reply_consume(s->call, json_pack("{sO}", "snapshot", record));
    else
        api_reply_failed(s->call, err->id, err->text);
    free(s);
}

void api_snapshot(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;
    const struct snapshot_request request = {
        .folder = json_string_value(json_object_get(parameters, "folder")),
        .name = json_string_value(json_object_get(parameters, "name")),
        .spec = json_string_value(json_object_get(parameters, "spec")),
        .live = json_is_true(json_object_get(parameters, "live")),
    };
    struct snapshot_call *s;
    struct err err = ERR_INIT;

    if (!api_means_us(vm, call, parameters))
        return;
    s = calloc(1, sizeof(*s));
    if (!s) {
        api_reply_failed(call, "no-memory", "out of memory");
        return;
    }
    *s = (struct snapshot_call){ vm, call };
    varlink_call_on_gone(call, on_gone, s);
    if (snapshot_begin(vm, &request, &(struct snapshot_watcher){ on_progress, on_ended, s }, &err) < 0) {
        varlink_call_on_gone(call, NULL, NULL);
        api_reply_failed(call, err.id, err.text);
        free(s);
    }
}

void api_cancel_snapshot(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = userdata;

    if (!api_means_us(vm, call, parameters))
        return;
    snapshot_cancel(vm);
    varlink_call_reply_consume(call, NULL);
}
