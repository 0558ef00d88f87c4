#include "lib/manager/spec_edit.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/log.h"
#include "lib/manager/edit_pull.h"
#include "lib/manager/launch_record.h"
#include "lib/manager/live.h"
#include "lib/manager/planner.h"
#include "lib/manager/rollout.h"
#include "lib/manager/spec_change.h"
#include "lib/manager/spec_folder.h"
#include "lib/manager/spec_gone.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/spec/load.h"

/* One VM that is looked at. */
struct edit {
    struct job job;
    struct vm *vm; /* a reference */
    char *file;
    char applied[17]; /* of the VM: known, whatever the record says */
    /* found */
    struct edit_facts facts;
    struct launch_record record;
    json_t *spec;
    char *why; /* a launch record that can't be read */
    bool awaits_image;
    char old_digest[17]; /* of the plan that the recorded spec comes to, "": it can't be resolved any more */
};

static void edit_free(struct edit *e)
{
    launch_record_clear(&e->record);
    json_decref(e->spec);
    free(e->file);
    vm_unref(e->vm);
    free(e);
}

/* The VM has been looked at; the next one. */
static void end(struct edit *e)
{
    struct manager *m = e->vm->manager;

    if (!e->awaits_image)
        edit_pull_drop(e->vm);
    edit_free(e);
    m->editing = false;
    spec_edit_kick(m);
}

/* ---- the record, when it is to change: written in order with what commands write ---- */

struct record_job {
    struct job job;
    struct vm *vm;
    struct launch_record record;
};

static void record_run(struct job *job)
{
    struct record_job *j = container_of(job, struct record_job, job);
    auto_launch_record struct launch_record before = { 0 };
    int r;

    if (launch_record_read(j->vm->manager->run_vms_fd, j->vm->name, &before) >= 0) {
        j->record.native = json_incref(before.native);
        memcpy(j->record.plan_digest, before.plan_digest, sizeof(before.plan_digest));
    }
    r = launch_record_write(j->vm->manager->run_vms_fd, j->vm->name, &j->record);

    if (r < 0 && r != -ENOENT)
        log_vm_error(j->vm->name, "can't write %s: %s", FILE_SPEC, strerror(-r));
}

static void record_done(struct job *job)
{
    struct record_job *j = container_of(job, struct record_job, job);

    launch_record_clear(&j->record);
    vm_unref(j->vm);
    free(j);
}

/* From here on `spec` is what the VM runs by. */
static void record(struct vm *vm, const char *file, json_t *spec)
{
    struct record_job *j = calloc(1, sizeof(*j));

    if (!j || str_set(&j->record.folder, vm->manager->specs_dir) < 0 || str_set(&j->record.file, file) < 0) {
        if (j)
            launch_record_clear(&j->record);
        free(j);
        return;
    }
    j->record.spec = json_incref(spec);
    j->vm = vm_ref(vm);
    j->job.run = record_run;
    j->job.done = record_done;
    worker_add(vm->manager->writer, &j->job);
}

/* ---- what is found ---- */

static bool has_no_mistake(const json_t *json, const char *name)
{
    const struct spec_reader nobody = { .arg = NULL };
    auto_spec struct spec spec = { 0 };

    return spec_load(json, &nobody, &spec) == 0 && streq_opt(spec.name, name);
}

/* Whether the file in which its spec was may still be that: "can't be read" is not "was deleted". */
static bool file_is_there(const struct edit *e)
{
    int specs_fd = e->vm->manager->specs_fd;
    auto_json json_t *json = NULL;
    struct stat st;
    const char *name;

    if (fstatat(specs_fd, e->file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno != ENOENT;
    if (specs_read(specs_fd, e->file, &json, NULL) < 0)
        return true;
    name = json_string_value(json_object_get(json, "name"));
    return !name || !name_is_valid(name) || streq(name, e->vm->name); /* else it is another VM's now */
}

static void look(struct job *job)
{
    struct edit *e = container_of(job, struct edit, job);
    const struct manager *m = e->vm->manager;
    struct edit_facts *f = &e->facts;
    char digest[17] = "", old[17] = "";
    struct err err = ERR_INIT;
    int r = launch_record_read(m->run_vms_fd, e->vm->name, &e->record);

    f->has_record = r >= 0;
    if (r < 0 && r != -ENOENT)
        (void)str_set(&e->why, strerror(-r));
    if (f->has_record && !f->has_file) {
        /* At the start of a manager the record is all that tells in which file it was. */
        f->here = streq(e->record.folder, m->specs_dir);
        if (str_set(&e->file, e->record.file) >= 0)
            f->has_file = file_is_there(e);
        return;
    }
    if (!f->has_file || specs_read(m->specs_fd, e->file, &e->spec, &err) < 0)
        return;
    f->readable = has_no_mistake(e->spec, e->vm->name) && json_digest(e->spec, digest) >= 0;
    if (!f->readable || !f->has_record || json_digest(e->record.spec, old) < 0)
        return;
    f->here = true;
    f->same = streq(digest, old);
    f->known = streq(digest, e->record.known) || streq(digest, e->applied);
    f->was_enabled = spec_json_enabled(e->record.spec);
    f->enabled = spec_json_enabled(e->spec);
}

/* ---- what follows ---- */

static bool still_lives(const struct vm *vm)
{
    return !vm->gone_from_registry && !vm->wanted.deleting && vm->presence == PRESENCE_SHIM && vm->answered && !vm->manager->stopping;
}

static void changed_live(void *arg, struct vm *vm, const struct live_result *result)
{
    struct edit *e = arg;

    if (!still_lives(vm) || vm->edit_due) {
        /* ended, or edited once more */
    } else if (result->error) {
        log_vm_warning(vm->name, "its edited spec is not in force: %s", result->error);
    } else if (!result->restart_needed) {
        log_vm_info(vm->name, "its edited spec is in force, with no restart");
        record(vm, e->file, e->spec);
        rollout_drop(vm);
    } else if (vm->manager->config.watch.on_change == ON_CHANGE_SHOW) {
        log_vm_info(vm->name, "its edited spec needs a restart: vmctl restart %s", vm->name);
    } else {
        rollout_add(vm, ROLLOUT_EDIT);
    }
    end(e);
}

static void new_planned(struct plan_request *p)
{
    struct edit *e = p->arg;
    struct vm *vm = e->vm;
    /* Where the old spec can't be resolved any more, what runs is all there is to compare with. */
    const char *old = e->old_digest[0] ? e->old_digest : vm->plan_digest;

    e->awaits_image = still_lives(vm) && plan_awaits_image(p);
    if (!still_lives(vm) || p->r < 0) {
        if (e->awaits_image)
            edit_pull_begin(vm, p->image_name, p->image_version);
        else if (p->r < 0)
            log_vm_warning(vm->name, "its edited spec changes nothing: %s", p->err.text);
        end(e);
    } else if (streq(old, p->digest)) {
        log_vm_info(vm->name, "its edited spec comes to the same plan");
        record(vm, e->file, e->spec);
        rollout_drop(vm);
        end(e);
    } else {
        live_change(vm, changed_live, e);
    }
    plan_request_free(p);
}

/* Both are resolved as if to try: nothing is given out for a spec that was. */
static int plan(struct edit *e, json_t *spec, void (*done)(struct plan_request *p))
{
    struct plan_request *p = plan_request_new(e->vm, PLAN_TRY, done, e);

    if (!p)
        return -ENOMEM;
    p->given = json_incref(spec);
    plan_request_begin(p);
    return 0;
}

static void old_planned(struct plan_request *p)
{
    struct edit *e = p->arg;

    if (p->r >= 0)
        memcpy(e->old_digest, p->digest, sizeof(e->old_digest));
    plan_request_free(p);
    if (!still_lives(e->vm) || plan(e, e->spec, new_planned) < 0)
        end(e);
}

static void done(struct job *job)
{
    struct edit *e = container_of(job, struct edit, job);
    struct vm *vm = e->vm;

    if (e->why)
        log_vm_error(vm->name, "can't read %s: %s", FILE_SPEC, e->why);
    free(steal_ptr(&e->why));
    if (!still_lives(vm) || vm->edit_due) { /* looked at again when it answers */
        end(e);
        return;
    }
    switch (edit_verdict_of(&e->facts)) {
    case EDIT_NONE:
        if (e->facts.same || e->facts.known)
            rollout_drop(vm);
        break;
    case EDIT_BASELINE:
        record(vm, e->file, e->spec);
        break;
    case EDIT_GONE:
        if (!vm->has_spec) {
            vm->gone_seen = e->record.gone;
            spec_gone_begin(vm);
        }
        break;
    case EDIT_DISABLED:
        log_vm_info(vm->name, "its spec says it is not enabled: stopped");
        wish_stop_by_spec(vm);
        break;
    case EDIT_COMPARE:
        if (plan(e, e->record.spec, old_planned) >= 0)
            return;
        break;
    }
    end(e);
}

static int begin(struct vm *vm)
{
    struct edit *e = calloc(1, sizeof(*e));
    char file[VM_PATH_MAX];

    if (!e)
        return -ENOMEM;
    e->vm = vm_ref(vm);
    if (str_set(&e->file, specs_file(vm, file)) < 0) {
        edit_free(e);
        return -ENOMEM;
    }
    memcpy(e->applied, vm->applied_digest, sizeof(e->applied));
    e->facts.has_file = vm->has_spec;
    e->job.run = look;
    e->job.done = done;
    worker_add(vm->manager->watcher, &e->job);
    return 0;
}

void spec_edit_kick(struct manager *m)
{
    if (m->editing || m->stopping || !m->serving || m->specs_lost)
        return;
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        /* One that can't be asked is looked at when it answers (again). */
        if (!vm->edit_due || !still_lives(vm) || vm->spec_second)
            continue;
        vm->edit_due = false;
        if (begin(vm) >= 0) {
            m->editing = true;
            return;
        }
    }
}
