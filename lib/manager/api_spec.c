/* Apply and Delete: the specs folder and the records, by two jobs each that may block. */
#include <errno.h>
#include <limits.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/disk/own_disks.h"
#include "lib/disk/spec_recipes.h"
#include "lib/manager/allocations.h"
#include "lib/manager/api.h"
#include "lib/manager/down.h"
#include "lib/manager/launch.h"
#include "lib/manager/launch_record.h"
#include "lib/manager/live.h"
#include "lib/manager/plan_image.h"
#include "lib/manager/planner.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/registry.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"
#include "lib/manager/watch.h"
#include "lib/manager/wish.h"
#include "lib/spec/load.h"

enum apply_change { APPLY_CREATED, APPLY_UPDATED, APPLY_UNCHANGED };
static const char *const change_names[] = { "created", "updated", "unchanged" };

struct apply {
    struct job job;
    struct host_limits limits; /* these two of the host config */
    char *authorized_keys;
    struct manager *manager;
    struct answer answer;
    json_t *spec;
    char *file; /* of the VM now; by its name when it has none */
    /* found */
    int r;
    struct err err;
    json_t *problems;
    bool enabled;
    enum apply_change change;
};

static const char *apply_name(const struct apply *a) { return json_string_value(json_object_get(a->spec, "name")); }

static void apply_free(struct apply *a)
{
    json_decref(a->spec);
    json_decref(a->problems);
    free(a->authorized_keys);
    free(a->file);
    free(a);
}

static int check_disks(const struct apply *a, const struct spec *spec, const struct spec_reader *reader)
{
    struct spec_finding finding = { a->spec, reader };
    struct spec_digests digests;
    auto_free char *state = NULL;
    int n, r;

    if (str_format(&state, "%s/" FOLDER_VMS "/%s", a->manager->dirs.state, spec->name) < 0)
        return -ENOMEM;
    n = own_disks_check(spec, state, spec_found, &finding);
    r = n < 0 ? n : spec_recipes_digest(spec, spec_found, &finding, &digests);
    return r < 0 ? r : n + r;
}

/* Nothing is given yet, so what is left to us is in nobody's way. */
static int check_claims(struct apply *a, const struct spec *spec)
{
    auto_claims struct claims claims = { 0 };
    bool spvm = spec_is_spvm(a->spec);
    int r = claims_from_spec(spec, &claims);

    if (r < 0)
        return r;
    return admission_check_spec(&a->limits, spec, spvm, specs_collect_problem, a->problems) +
           allocations_check(a->manager->allocations, spec->name, &claims, spvm, specs_collect_problem, a->problems);
}

static void check_run(struct job *job)
{
    struct apply *a = container_of(job, struct apply, job);
    auto_spec struct spec spec = { 0 };
    auto_json json_t *old = NULL;
    const struct spec_reader reader = {
        .problem = specs_collect_problem,
        .arg = a->problems,
        .sysfs_root = a->manager->sysfs_root,
        .authorized_keys = a->authorized_keys,
    };
    int r;

    a->r = spec_load(a->spec, &reader, &spec);
    if (a->r == 0) {
        a->enabled = spec.enabled;
        a->r = spec_load_host(a->spec, &spec, &reader);
        if (a->r == 0)
            a->r = check_disks(a, &spec, &reader);
    }
    if (a->r == 0 && a->enabled)
        a->r = check_claims(a, &spec);
    if (a->r != 0)
        return;
    r = specs_read(a->manager->specs_fd, a->file, &old, &a->err);
    if (r == -ENOENT)
        a->change = APPLY_CREATED;
    else
        a->change = r >= 0 && json_equal(old, a->spec) ? APPLY_UNCHANGED : APPLY_UPDATED;
    a->err = ERR_INIT;
}

/* A VM that runs by another spec goes on with that until somebody restarts it, also after this manager's end: written first. */
static int note_known(const struct apply *a)
{
    auto_launch_record struct launch_record record = { 0 };
    int r = launch_record_read(a->manager->run_vms_fd, apply_name(a), &record);

    if (r < 0)
        return r == -ENOENT || r == -EINVAL ? 0 : r;
    record.gone = false;
    r = json_digest(a->spec, record.known);
    return r < 0 ? r : launch_record_write(a->manager->run_vms_fd, apply_name(a), &record);
}

/* A file in its place would cut the spec off from where its owner keeps and edits it. */
static int refuse_link(struct apply *a)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(a->manager->specs_fd, a->file, target, sizeof(target) - 1);

    if (n < 0)
        return 0;
    target[n] = '\0';
    utf8_clean(target);
    return err_set(&a->err, EMLINK, "refused", "%s/%s is a link to %s: edit that file, which is watched too, or remove the link first",
                   a->manager->specs_dir, a->file, target);
}

static void write_run(struct job *job)
{
    struct apply *a = container_of(job, struct apply, job);
    auto_free char *text = NULL, *lines = NULL;

    if (a->change == APPLY_UNCHANGED || (a->r = refuse_link(a)) < 0)
        return;
    /* For people, who will edit it. */
    a->r = json_format_indented(a->spec, &text, NULL);
    if (a->r >= 0)
        a->r = str_format(&lines, "%s\n", text);
    if (a->r >= 0)
        a->r = note_known(a);
    if (a->r >= 0)
        a->r = file_write(a->manager->specs_fd, a->file, lines, strlen(lines), FILE_MODE, FILE_DURABLE);
    if (a->r < 0)
        err_set_errno(&a->err, -a->r, "not-saved", "can't write %s/%s", a->manager->specs_dir, a->file);
}

struct applied {
    struct answer answer;
    enum apply_change change;
    bool written;
    uint32_t write;
};

static void answer_applied(struct applied *done, struct vm *vm, bool restart_needed, const json_t *live)
{
    if (done->answer.call)
        wait_begin_consume(vm, done->answer.call,
                           &(struct wait_for){ .kind = WAIT_APPLIED,
                                               .written = done->written,
                                               .write = done->write,
                                               .reply = json_pack("{s:s, s:s, s:b, s:O*}", "name", vm->name, "change",
                                                                  change_names[done->change], "restart_needed", (int)restart_needed, "live",
                                                                  json_array_size(live) > 0 ? (json_t *)(uintptr_t)live : NULL) });
    free(done);
}

static void applied_live(void *arg, struct vm *vm, const struct live_result *r)
{
    struct applied *done = arg;

    if (!r->error) {
        answer_applied(done, vm, r->restart_needed, r->changed);
        return;
    }
    if (done->answer.call)
        api_fail(done->answer.call, vm->name, r->id, NULL, "its spec is %s, but %s goes on with its earlier one: %s",
                 change_names[done->change], vm->name, r->error);
    free(done);
}

static void applied_planned(struct plan_request *p)
{
    struct applied *done = p->arg;
    struct vm *vm = p->vm;
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN;
    bool differs;

    if (p->r >= 0)
        memcpy(vm->next_digest, p->digest, sizeof(vm->next_digest));
    (void)str_set(&vm->spec_error, p->r < 0 && !plan_awaits_image(p) ? p->err.text : NULL);
    if (p->r >= 0)
        plan_image_note(p);
    /* What runs has a release that is here, so one that isn't is another. */
    differs = lives && vm->plan_digest[0] && (plan_awaits_image(p) || (vm->next_digest[0] && !streq(vm->plan_digest, vm->next_digest)));
    if (differs && p->r >= 0) {
        live_begin_consume(p, applied_live, done);
        return;
    }
    answer_applied(done, vm, differs, NULL);
    plan_request_free(p);
}

/* The spec is on disk. A wish to run follows from it when it is enabled. */
static void take_effect(struct apply *a, struct vm *vm, bool is_new, struct varlink_call *call)
{
    struct applied *done = calloc(1, sizeof(*done));
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch;

    specs_note(vm, a->spec);
    vm->check_due = false;
    free(steal_ptr(&vm->spec_second));
    (void)str_set(&vm->spec_error, NULL);
    reconcile_fresh(vm);
    if (done)
        done->change = a->change;
    if (a->enabled && !wish_restore_is_due(vm) && (vm->wanted.wish != WANTED_RUNNING || !vm->has_wanted || !lives)) {
        uint32_t write;

        vm->from_next = is_new || vm->presence == PRESENCE_CHECKING;
        write = wish_change(
            vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = vm->incarnation + (lives && !vm->launch ? 0 : 1), .keep = true });
        if (done) {
            done->written = true;
            done->write = write;
        }
    }
    if (is_new)
        down_begin(vm); /* an earlier VM of this name may have left its last exit */
    else
        vm_changed(vm);
    launch_plan_again(vm);
    if (!done || plan_request(vm, PLAN_SHOW, applied_planned, done) < 0) {
        free(done);
        if (call)
            api_fail_memory(call);
        return;
    }
    if (call)
        answer_bind(&done->answer, call);
}

static void write_done(struct job *job)
{
    struct apply *a = container_of(job, struct apply, job);
    struct varlink_call *call = a->answer.call;
    const char *name = apply_name(a);
    bool is_new = !registry_find(a->manager, name);
    struct vm *vm;

    if (a->r < 0 && streq(a->err.id, "refused")) {
        if (call)
            api_refuse(call, name, "%s", a->err.text);
    } else if (a->r < 0) {
        if (call)
            api_fail(call, name, a->err.id, NULL, "%s", a->err.text);
    } else if (!(vm = registry_get_or_add(a->manager, name))) {
        if (call)
            api_fail_memory(call);
    } else {
        log_vm_info(name, "spec %s", change_names[a->change]);
        take_effect(a, vm, is_new, call);
    }
    watch_release(a->manager);
    apply_free(a);
}

/* False: the call is answered. */
static bool may_apply(struct manager *m, struct varlink_call *call, const char *name)
{
    struct vm *vm = registry_find(m, name);
    const struct vm *owner = specs_file_owner(m, name);

    if (m->specs_away)
        api_refuse(call, name, "%s: where the spec of %s would be written isn't there", m->specs_lost, name);
    else if (vm && vm->wanted.deleting)
        api_refuse(call, name, "%s is being deleted", name);
    else if (vm && specs_is_twice(vm))
        api_refuse(call, name, "%s", vm->spec_error ? vm->spec_error : "its spec is in two files");
    else if (owner && !(vm && vm->spec_file))
        api_refuse(call, name, "%s.json is the spec of %s: rename it first", name, owner->name);
    else
        return true;
    return false;
}

static void check_done(struct job *job)
{
    struct apply *a = container_of(job, struct apply, job);
    struct varlink_call *call = a->answer.call;
    const char *name = apply_name(a);

    if (!call || a->r != 0) {
        /* Gone before anything was written; or wrong. */
        if (call && a->r > 0)
            api_bad_spec_consume(call, json_incref(a->problems));
        else if (call)
            api_fail_memory(call);
        apply_free(a);
        return;
    }
    if (!may_apply(a->manager, call, name)) {
        apply_free(a);
        return;
    }
    a->job.run = write_run;
    a->job.done = write_done;
    watch_hold(a->manager);
    worker_add(a->manager->writer, &a->job);
}

static int file_of(const struct manager *m, const char *name, char **ret_file)
{
    const struct vm *vm = registry_find(m, name);
    char file[VM_PATH_MAX];

    return vm ? str_set(ret_file, specs_file(vm, file)) : str_format(ret_file, "%s.json", name);
}

void api_apply(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    json_t *spec = json_object_get(parameters, "spec");
    const char *name = json_string_value(json_object_get(spec, "name"));
    struct apply *a = calloc(1, sizeof(*a));

    if (a) {
        a->manager = m;
        a->limits = m->config.limits;
        (void)str_set(&a->authorized_keys, m->config.vm_config.authorized_keys_file);
        a->spec = json_deep_copy(spec);
        a->problems = json_array();
    }
    /* A name that can't be one is told by the check, which comes before the file is looked at. */
    if (!a || !a->spec || !a->problems || file_of(m, name && name_is_valid(name) ? name : "", &a->file) < 0) {
        if (a)
            apply_free(a);
        api_fail_memory(call);
        return;
    }
    a->job.run = check_run;
    a->job.done = check_done;
    answer_bind(&a->answer, call);
    worker_add(m->reader, &a->job);
}

void api_delete(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    bool force = json_is_true(json_object_get(parameters, "force"));
    bool purge = json_is_true(json_object_get(parameters, "purge"));
    struct wait_for what = { .kind = WAIT_DELETED, .written = true };
    bool lives;

    if (!vm)
        return;
    lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch;
    if (vm_is_lost(vm)) {
        api_refuse(call, vm->name, "%s is orphaned: %s; kill it first", vm->name, vm->reason ? vm->reason : "no shim supervises it");
        return;
    }
    if (vm->view == VIEW_UNRESPONSIVE) {
        api_unresponsive(call, vm);
        return;
    }
    if (lives && !force && !vm->wanted.deleting) {
        api_refuse(call, vm->name, "%s is %s: stop it first, or delete it with force", vm->name, enum_to_string(&vm_view_names, vm->view));
        return;
    }
    if (specs_is_twice(vm)) {
        api_refuse(call, vm->name, "%s", vm->spec_error ? vm->spec_error : "its spec is in two files");
        return;
    }
    reconcile_fresh(vm);
    vm->delete_failed = false;
    vm->stop_due = vm->presence == PRESENCE_SHIM && vm->view != STATE_STOPPING;
    what.write = wish_change(vm, &(struct wish_change){
                                     .wish = WANTED_STOPPED,
                                     .from = vm->wanted.from,
                                     .deleting = true,
                                     .purge = purge || vm->wanted.purge,
                                 });
    wait_begin_consume(vm, call, &what);
    vm_changed(vm);
}
