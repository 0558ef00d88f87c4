#include "lib/manager/live.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/manager/allocations.h"
#include "lib/manager/call.h"
#include "lib/manager/compare.h"
#include "lib/manager/hold.h"
#include "lib/manager/launch_record.h"
#include "lib/manager/link.h"
#include "lib/manager/plan_allocate.h"
#include "lib/manager/state.h"
#include "lib/spec/load.h"

/* A monitor that hangs has 10 s for a step, and again for taking it back; and vmctl, which waits for us, gives up after 30. */
enum { UPDATE_TIMEOUT_MS = 25 * 1000 };

#define SHIM_INTERFACE "io.holdfast.Shim"

struct live {
    struct job job;
    struct plan_request *p;
    void (*done)(void *arg, struct vm *vm, const struct live_result *r);
    void *arg;
    uint64_t incarnation;
    struct comparison comparison;
    int r;
    struct err err;
};

static void end(struct live *l, const struct live_result *result)
{
    l->done(l->arg, l->p->vm, result);
    json_decref(l->comparison.differences);
    plan_request_free(l->p);
    free(l);
}

static void end_restart(struct live *l) { end(l, &(struct live_result){ .restart_needed = true }); }

/* It is tried again when it can be done, so nobody needs to restart the VM for it. */
static void end_later(struct live *l)
{
    l->p->vm->live_due = true;
    end(l, &(struct live_result){ .restart_needed = false });
}

static void end_failed(struct live *l, const char *id, const char *text)
{
    struct vm *vm = l->p->vm;

    if (!streq_opt(vm->spec_error, text)) {
        log_vm_warning(vm->name, "it goes on with its earlier plan: %s", text);
        (void)str_set(&vm->spec_error, text);
    }
    end(l, &(struct live_result){ .restart_needed = true, .id = id, .error = text });
}

/* ---- the shim's answer ---- */

/* The spec's words for the plan that runs now. Without them the plan's own are used. */
struct note {
    struct job job;
    struct vm *vm;
    json_t *native;
    char digest[17];
    int r, committed;
};

static void note_run(struct job *job)
{
    struct note *n = container_of(job, struct note, job);

    n->r = launch_record_note_plan(n->vm->manager->run_vms_fd, n->vm->name, n->native, n->digest);
    n->committed = allocations_commit(n->vm->manager->allocations);
}

static void note_done(struct job *job)
{
    struct note *n = container_of(job, struct note, job);

    if (n->r < 0 && n->r != -ENOENT)
        log_vm_warning(n->vm->name, "can't write " FILE_SPEC ": %s", strerror(-n->r));
    if (n->committed < 0)
        log_vm_warning(n->vm->name, "which ports it has now can't be written to allocations.json: %s", strerror(-n->committed));
    hold_freed(n->vm->manager);
    json_decref(n->native);
    vm_unref(n->vm);
    free(n);
}

static void note_spec(const struct live *l)
{
    struct note *n = calloc(1, sizeof(*n));

    if (!n)
        return;
    n->vm = vm_ref(l->p->vm);
    n->native = json_incref(l->p->native);
    memcpy(n->digest, l->p->digest, sizeof(n->digest));
    n->job.run = note_run;
    n->job.done = note_done;
    worker_add(l->p->vm->manager->writer, &n->job);
}

static void updated(struct live *l, struct vm *vm, const json_t *changed)
{
    /* Its event says so too, on another connection. */
    if (vm->incarnation == l->incarnation)
        memcpy(vm->plan_digest, l->p->digest, sizeof(vm->plan_digest));
    allocations_change_take(vm->manager->allocations, vm->name, &l->p->claims);
    (void)str_set(&vm->spec_error, NULL);
    note_spec(l);
    log_vm_info(vm->name, "changed while it runs (%zu changes)", json_array_size(changed));
    vm_changed(vm);
    /* A spec that was applied while an edit was under way may have been heeded before it: the newer wish counts. */
    if (!vm->gone_from_registry && !vm->manager->stopping)
        live_check(vm);
    end(l, &(struct live_result){ .changed = changed });
}

/* QEMU says that it can't listen on a port, and not who does. */
static void ports_run(struct job *job)
{
    struct live *l = container_of(job, struct live, job);

    if (plan_check_host_ports(l->p, spec_is_spvm(l->p->spec)) < 0)
        l->err = l->p->err;
}

static void ports_done(struct job *job)
{
    struct live *l = container_of(job, struct live, job);

    end_failed(l, l->err.id, l->err.text);
}

static void refused(struct live *l, struct vm *vm, const struct varlink_reply *r)
{
    const char *reason = json_string_value(json_object_get(r->parameters, "reason"));
    const char *id = json_string_value(json_object_get(r->parameters, "id"));

    if (streq(r->error, "org.varlink.service.MethodNotFound")) {
        log_vm_info(vm->name, "its shim is older than this manager and can't be changed while it runs: it needs a restart");
        end_restart(l);
    } else if (streq(r->error, SHIM_INTERFACE ".RestartNeeded")) {
        log_vm_info(vm->name, "it needs a restart: %s", reason ? reason : r->error);
        end_restart(l);
    } else if (streq(r->error, SHIM_INTERFACE ".WrongState") || streq(r->error, SHIM_INTERFACE ".StaleIncarnation")) {
        end_later(l);
    } else {
        err_set(&l->err, EIO, id ? id : "shim", "%s", reason ? reason : r->error);
        l->job = (struct job){ .run = ports_run, .done = ports_done };
        worker_add(vm->manager->reader, &l->job);
    }
}

static void answered(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    struct live *l = arg;

    if (r->failure == -ETIMEDOUT) {
        link_unanswered(vm);
        vm->live_due = true;
        end_failed(l, "unresponsive", "its shim doesn't answer; it is tried again when it does");
    } else if (r->failure < 0) {
        vm->live_due = true;
        end_failed(l, "lost", "its shim went away before it answered; it is tried again with the next one");
    } else if (r->error) {
        refused(l, vm, r);
    } else {
        updated(l, vm, json_object_get(r->parameters, "changed"));
    }
}

/* ---- is there anything to do, and can it be done? ---- */

static void compare_run(struct job *job)
{
    struct live *l = container_of(job, struct live, job);

    l->r = compare_with_running(l->p, &l->comparison, &l->err);
    if (l->r < 0)
        err_from(&l->err, l->r, "comparing the plans");
}

static bool can_be_told(const struct vm *vm)
{
    return vm->presence == PRESENCE_SHIM && vm->answered &&
           (vm->view == (int)STATE_RUNNING || vm->view == (int)STATE_PAUSED || vm->view == (int)STATE_BACKOFF);
}

static void compare_done(struct job *job)
{
    struct live *l = container_of(job, struct live, job);
    struct vm *vm = l->p->vm;
    int r;

    if (vm->gone_from_registry || vm->manager->stopping) {
        end(l, &(struct live_result){ .restart_needed = false });
    } else if (l->r < 0) {
        end_failed(l, l->err.id, l->err.text);
    } else if (l->comparison.effect != EFFECT_LIVE) {
        end(l, &(struct live_result){ .restart_needed = l->comparison.effect == EFFECT_RESTART });
    } else if (!can_be_told(vm)) {
        end_later(l);
    } else {
        l->incarnation = vm->incarnation;
        r = shim_call_consume(vm, "Update", json_pack("{s:I, s:O}", "incarnation", (json_int_t)vm->incarnation, "plan", l->p->next),
                              UPDATE_TIMEOUT_MS, answered, l);
        if (r < 0) {
            vm->live_due = true;
            end_failed(l, "unreachable", strerror(-r));
        }
    }
}

void live_begin_consume(struct plan_request *p, void (*done)(void *arg, struct vm *vm, const struct live_result *r), void *arg)
{
    struct live *l = calloc(1, sizeof(*l));

    p->vm->live_due = false;
    if (!l) {
        done(arg, p->vm, &(struct live_result){ .restart_needed = true, .id = "no-memory", .error = "out of memory" });
        plan_request_free(p);
        return;
    }
    *l = (struct live){ .job = { .run = compare_run, .done = compare_done }, .p = p, .done = done, .arg = arg };
    worker_add(p->vm->manager->reader, &l->job);
}

/* ---- planned anew ---- */

struct change {
    void (*done)(void *arg, struct vm *vm, const struct live_result *r);
    void *arg;
};

static void planned(struct plan_request *p)
{
    struct vm *vm = p->vm;
    struct change change = *(struct change *)p->arg;

    free(p->arg);
    if (p->r < 0 || vm->gone_from_registry || vm->manager->stopping) {
        change.done(change.arg, vm, &(struct live_result){ .restart_needed = true, .id = p->err.id, .error = p->err.text });
        plan_request_free(p);
        return;
    }
    memcpy(vm->next_digest, p->digest, sizeof(vm->next_digest));
    live_begin_consume(p, change.done, change.arg);
}

void live_change(struct vm *vm, void (*done)(void *arg, struct vm *vm, const struct live_result *r), void *arg)
{
    struct change *c = calloc(1, sizeof(*c));

    vm->live_due = false;
    if (c)
        *c = (struct change){ done, arg };
    if (!c || plan_request(vm, PLAN_SHOW, planned, c) < 0) {
        free(c);
        done(arg, vm, &(struct live_result){ .restart_needed = true, .id = "no-memory", .error = "out of memory" });
    }
}

/* ---- of our own accord ---- */

/* What became of it is in the log. */
static void tell_nobody(void *arg, struct vm *vm, const struct live_result *r) {}

void live_update(struct vm *vm) { live_change(vm, tell_nobody, NULL); }

void live_check(struct vm *vm)
{
    if (!vm->next_digest[0] || (vm->presence != PRESENCE_SHIM && vm->presence != PRESENCE_ORPHAN))
        return;
    if (!vm->answered)
        vm->live_due = true; /* which plan it runs by is not known yet */
    else if (!streq(vm->plan_digest, vm->next_digest))
        live_update(vm);
}

void live_status(struct vm *vm)
{
    if (!vm->live_due || !can_be_told(vm) || vm->manager->stopping)
        return;
    if (streq(vm->plan_digest, vm->next_digest))
        vm->live_due = false;
    else
        live_update(vm);
}
