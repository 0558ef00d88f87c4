/* Letting the guest run on after its device state was saved. For a moment behind the event that tells of its end QEMU counts the migration as
 * not finalized and refuses (runstate finish-migrate); no event tells when that is over, so it is asked again. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/json.h"
#include "shim/snapshot_job.h"
#include "shim/vm.h"

enum { TIMEOUT_MS = 30 * 1000, REFUSALS_MAX = 3 /* in another state than that */ };

struct run_on {
    struct vm *vm;
    uint64_t since; /* monotonic us */
    int refusals;
    void (*done)(struct vm *vm, const char *why); /* why: NULL when it runs */
};

static void ask_to_run(struct run_on *o);

static void end_run_on(struct run_on *o, const char *why)
{
    o->vm->running_on--;
    o->done(o->vm, why);
    free(o);
}

static void on_status(void *arg, const struct qmp_result *r)
{
    struct run_on *o = arg;
    const char *status = json_string_value(json_object_get(json_object_get(r->reply, "return"), "status"));

    /* It may have become finalized between the two answers. */
    if (r->failure == 0 && !streq_opt(status, "finish-migrate"))
        o->refusals++;
    if (r->failure != 0)
        end_run_on(o, r->text);
    else if (o->refusals < REFUSALS_MAX && clock_mono_us() - o->since < (uint64_t)TIMEOUT_MS * 1000)
        ask_to_run(o);
    else
        end_run_on(o, "QEMU refuses (see qemu.log)");
}

static void on_run(void *arg, const struct qmp_result *r)
{
    struct run_on *o = arg;

    if (r->failure == 0)
        end_run_on(o, NULL);
    else if (r->failure != -EREMOTEIO || qmp_client_call(o->vm->qemu.qmp, "query-status", NULL, TIMEOUT_MS, on_status, o) < 0)
        end_run_on(o, r->text);
}

static void ask_to_run(struct run_on *o)
{
    if (qmp_client_call(o->vm->qemu.qmp, "cont", NULL, TIMEOUT_MS, on_run, o) < 0)
        end_run_on(o, "its monitor is gone");
}

void snapshot_run_on(struct vm *vm, void (*done)(struct vm *vm, const char *why))
{
    struct run_on *o = calloc(1, sizeof(*o));

    if (!o) {
        done(vm, "out of memory");
        return;
    }
    vm->running_on++;
    *o = (struct run_on){ .vm = vm, .since = clock_mono_us(), .done = done };
    ask_to_run(o);
}

bool snapshot_adopt(struct vm *vm)
{
    bool resume = false;

    if (snapshot_pending_undo(vm, &resume) <= 0)
        return false;
    vm_tell(vm, EVENT_SNAPSHOT, NULL, "a snapshot was under way when its shim died: what there was of it is removed");
    if (!resume || vm->state == STATE_STOPPING)
        return false;
    (void)qmp_client_call(vm->qemu.qmp, "migrate_cancel", NULL, 0, NULL, NULL);
    vm_let_run(vm);
    return true;
}
