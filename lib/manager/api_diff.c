/* Diff: what a spec would change, with nothing written and nothing given out. */
#include <errno.h>

#include "lib/base/parse.h"
#include "lib/manager/api.h"
#include "lib/manager/compare.h"
#include "lib/manager/registry.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"

struct diff {
    struct job job;
    struct answer answer;
    struct plan_request *p;
    bool known, lives; /* as it was when the plan was there */
    const char *change;
    struct comparison comparison;
    int r;
    struct err err;
};

static void diff_free(struct diff *d)
{
    json_decref(d->comparison.differences);
    plan_request_free(d->p);
    free(d);
}

static void compare_run(struct job *job)
{
    struct diff *d = container_of(job, struct diff, job);
    auto_json json_t *file = NULL;
    bool is_file = specs_read(d->p->vm->manager->specs_fd, d->p->spec_file, &file, NULL) >= 0;

    if (d->p->given)
        d->change = !d->known ? "created" : is_file && json_equal(file, d->p->given) ? "unchanged" : "updated";
    if (d->lives)
        d->r = compare_with_running(d->p, &d->comparison, &d->err);
    else
        d->r = compare_with_file(d->p, file, &d->comparison);
    if (d->r < 0)
        err_from(&d->err, d->r, "comparing");
    else if (!d->known)
        d->comparison.effect = EFFECT_CREATE;
}

static void compare_done(struct job *job)
{
    struct diff *d = container_of(job, struct diff, job);

    if (d->answer.call && d->r < 0)
        api_fail(d->answer.call, d->p->vm->name, d->err.id, NULL, "%s", d->err.text);
    else if (d->answer.call)
        varlink_call_reply_consume(d->answer.call,
                                   json_pack("{s:s, s:s*, s:O}", "effect", enum_to_string(&effect_names, (int)d->comparison.effect),
                                             "change", d->change, "differences", d->comparison.differences));
    diff_free(d);
}

static void planned(struct plan_request *p)
{
    struct diff *d = p->arg;
    const struct vm *vm = p->vm;

    d->p = p;
    if (d->answer.call && (p->r >= 0 || plan_awaits_image(p))) {
        d->known = registry_find(vm->manager, vm->name) != NULL;
        d->lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN;
        d->job = (struct job){ .run = compare_run, .done = compare_done };
        worker_add(vm->manager->reader, &d->job);
        return;
    }
    if (d->answer.call && json_array_size(p->problems) > 0)
        api_bad_spec_consume(d->answer.call, json_incref(p->problems));
    else if (d->answer.call)
        api_fail(d->answer.call, vm->name, p->err.id, NULL, "%s", p->err.text);
    diff_free(d);
}

void api_diff(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    const char *name = json_string_value(json_object_get(parameters, "name"));
    json_t *spec = json_object_get(parameters, "spec");
    struct vm *vm = registry_find(m, name), *unknown = NULL;
    struct diff *d;

    if (!vm && !json_is_object(spec)) {
        api_no_such_vm(call, name);
        return;
    }
    if (vm && !vm->has_spec && !json_is_object(spec)) {
        api_refuse(call, name, "there is no spec of %s: apply one", name);
        return;
    }
    if (!name_is_valid(name)) {
        api_refuse(call, name, "\"%s\" is no VM name (" NAME_RULE ")", name);
        return;
    }
    d = calloc(1, sizeof(*d));
    if (d && (vm || vm_new(m, name, &unknown) >= 0))
        d->p = plan_request_new(vm ? vm : unknown, PLAN_SHOW | PLAN_DRY, planned, d);
    if (unknown)
        vm_unref(unknown);
    if (!d || !d->p) {
        free(d);
        api_fail_memory(call);
        return;
    }
    if (json_is_object(spec))
        d->p->given = json_incref(spec);
    answer_bind(&d->answer, call);
    plan_request_begin(d->p);
}
