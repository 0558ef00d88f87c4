/* The methods that only look. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/manager/allocations.h"
#include "lib/manager/api.h"
#include "lib/manager/follow.h"
#include "lib/manager/link.h"
#include "lib/manager/planner.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"

static int by_name(const void *a, const void *b)
{
    const struct vm *const *left = a, *const *right = b;

    return strverscmp((*left)->name, (*right)->name);
}

/* In the order of names: the registry's is that of a folder, and another one after a restart. */
void api_list(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    size_t n = 0;
    auto_free struct vm **sorted = calloc(map_len(m->vms) + 1, sizeof(*sorted)); /* NOLINT(bugprone-sizeof-expression): of pointers */
    json_t *vms;

    if (!sorted) {
        api_fail_memory(call);
        return;
    }
    map_foreach (m->vms, e) {
        sorted[n] = map_value(e);
        link_check_stopped(sorted[n++]);
    }
    qsort(sorted, n, sizeof(*sorted), by_name); /* NOLINT(bugprone-sizeof-expression): the same */
    vms = json_array();
    for (size_t i = 0; i < n; i++)
        (void)json_array_append_new(vms, vm_to_wire(sorted[i]));
    varlink_call_reply_consume(call, json_pack("{s:o}", "vms", vms));
}

static json_t *paths_of(const struct vm *vm)
{
    const struct dirs *dirs = &vm->manager->dirs;
    auto_free char *run = NULL, *state = NULL, *log = NULL, *spec = NULL;
    char file[VM_PATH_MAX];

    if (str_format(&run, "%s/%s/%s", dirs->run, FOLDER_VMS, vm->name) < 0 ||
        str_format(&state, "%s/%s/%s", dirs->state, FOLDER_VMS, vm->name) < 0 || str_format(&log, "%s/%s", dirs->log, vm->name) < 0 ||
        str_format(&spec, "%s/%s", vm->manager->specs_dir, specs_file(vm, file)) < 0)
        return NULL;
    return json_pack("{s:o, s:o, s:o, s:o}", "run", json_text(run), "state", json_text(state), "log", json_text(log), "spec",
                     json_text(spec));
}

void api_get(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);

    if (!vm)
        return;
    link_check_stopped(vm);
    varlink_call_reply_consume(call, json_pack("{s:o, s:o, s:o*}", "vm", vm_to_wire(vm), "paths", paths_of(vm), "allocated",
                                               allocations_show(vm->manager->allocations, vm->name)));
}

static void inspected(struct plan_request *p)
{
    struct answer *a = p->arg;
    const struct vm *vm = p->vm;
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN;

    if (a->call)
        varlink_call_reply_consume(a->call, json_pack("{s:o, s:o, s:o*, s:O*, s:O*, s:O*}", "vm", vm_to_wire(vm), "paths", paths_of(vm),
                                                      "allocated", allocations_show(vm->manager->allocations, vm->name), "spec",
                                                      json_is_object(p->spec) ? p->spec : NULL, "plan",
                                                      lives && json_is_object(p->running) ? p->running : NULL, "next_plan", p->next));
    free(a);
    plan_request_free(p);
}

void api_inspect(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    struct answer *a;

    if (!vm)
        return;
    a = calloc(1, sizeof(*a));
    if (!a || plan_request(vm, PLAN_SHOW, inspected, a) < 0) {
        free(a);
        api_fail_memory(call);
        return;
    }
    answer_bind(a, call);
}

void api_wait(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    const char *condition = json_string_value(json_object_get(parameters, "condition"));
    json_int_t timeout_ms = json_integer_value(json_object_get(parameters, "timeout_ms"));
    struct wait_for what = { .kind = WAIT_CONDITION };

    if (!vm)
        return;
    what.condition =
        condition && streq(condition, "healthy") ? CONDITION_HEALTHY : enum_from_string(&vm_view_names, condition ? condition : "");
    if (what.condition < 0) {
        api_refuse(call, vm->name, "\"%s\" is no condition: give the name of a state, or healthy", condition ? condition : "");
        return;
    }
    /* A time of 0 is a question about now. */
    if (json_is_integer(json_object_get(parameters, "timeout_ms")))
        what.timeout_ms = timeout_ms > 0 ? (uint64_t)timeout_ms : 1;
    wait_begin_consume(vm, call, &what);
}

void api_events(struct varlink_call *call, const json_t *parameters, void *userdata) { follow_begin(userdata, call, parameters); }
