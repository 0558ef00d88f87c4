#include "lib/manager/restore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/api.h"
#include "lib/manager/down.h"
#include "lib/manager/plan_restore.h"
#include "lib/manager/planner.h"
#include "lib/manager/records.h"
#include "lib/manager/registry.h"
#include "lib/manager/restore_spec.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/watch.h"

/* What a thread does for it. */
struct restore_job {
    struct job job;
    struct restore *restore;
};

struct restore *restore_new(struct manager *m, const char *vm, const char *snapshot, int mode)
{
    struct restore *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->manager = m;
    r->from.mode = mode;
    r->notes = json_array();
    r->problems = json_array();
    r->job = calloc(1, sizeof(*r->job));
    if (!r->notes || !r->problems || !r->job || str_set(&r->from.vm, vm) < 0 || str_set(&r->from.snapshot, snapshot) < 0) {
        restore_free(r);
        return NULL;
    }
    r->job->restore = r;
    return r;
}

void restore_free(struct restore *r)
{
    if (!r)
        return;
    for (size_t i = 0; i < r->n_targets; i++) {
        free(r->targets[i].name);
        json_decref(r->targets[i].spec);
        if (r->targets[i].vm)
            vm_unref(r->targets[i].vm);
    }
    free(r->targets);
    wanted_restore_clear(&r->from);
    json_decref(r->notes);
    json_decref(r->problems);
    free(r->job);
    free(r);
}

int restore_add(struct restore *r, const char *name)
{
    struct restore_target *longer = reallocarray(r->targets, r->n_targets + 1, sizeof(*longer)), *t;
    struct vm *vm = registry_find(r->manager, name);

    if (!longer)
        return -ENOMEM;
    r->targets = longer;
    t = &longer[r->n_targets];
    *t = (struct restore_target){ 0 };
    if (str_set(&t->name, name) < 0)
        return -ENOMEM;
    r->n_targets++;
    if (vm)
        t->vm = vm_ref(vm);
    else if (vm_new(r->manager, name, &t->vm) < 0)
        return -ENOMEM;
    return 0;
}

static void end(struct restore *r, int result)
{
    r->r = result;
    if (result < 0)
        err_from(&r->err, result, "restoring");
    r->done(r);
}

static void begin_job(struct restore *r, struct worker *w, void (*run)(struct job *job), void (*done)(struct job *job))
{
    r->job->job.run = run;
    r->job->job.done = done;
    worker_add(w, &r->job->job);
}

/* ---- may it be? ---- */

static bool lives(const struct vm *vm) { return vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch; }

static int refuse_taken(struct restore *r, const struct restore_target *t)
{
    return err_set(&r->err, EEXIST, "refused", "there is a VM %s: nothing was begun; delete it first, or choose other names", t->name);
}

/* As things are at this moment; looked at again once all the rest is known. */
static int check_target(struct restore *r, const struct restore_target *t)
{
    struct vm *vm = registry_find(r->manager, t->name);
    const struct vm *owner = specs_file_owner(r->manager, t->name);

    if (owner && !(vm && vm->spec_file))
        return err_set(&r->err, EEXIST, "refused", "%s.json is the spec of %s: rename it first", t->name, owner->name);
    if (!vm)
        return 0;
    if (r->fresh)
        return refuse_taken(r, t);
    if (vm->wanted.deleting)
        return err_set(&r->err, EBUSY, "refused", "%s is being deleted", t->name);
    if (specs_is_twice(vm))
        return err_set(&r->err, EBUSY, "refused", "%s", vm->spec_error ? vm->spec_error : "its spec is in two files");
    if (vm_is_lost(vm))
        return err_set(&r->err, EBUSY, "refused", "%s is orphaned: %s", t->name, vm->reason ? vm->reason : "no shim supervises it");
    if (vm->view == VIEW_UNRESPONSIVE) {
        r->unresponsive = true;
        return err_set(&r->err, EBUSY, "unresponsive", "the shim of %s doesn't answer", t->name);
    }
    if (lives(vm) && !r->force)
        return err_set(&r->err, EBUSY, "refused", "%s is %s: stop it first (or say --force), or restore under another name", t->name,
                       enum_to_string(&vm_view_names, vm->view));
    /* Which life is its next can't be told, and the one that is beginning would be taken for the restored one. */
    if (vm->launch || (vm->presence == PRESENCE_SHIM && !vm->answered))
        return err_set(&r->err, EBUSY, "refused", "%s is just being started: try again in a moment", t->name);
    return 0;
}

static int check_targets(struct restore *r)
{
    int result = 0;

    for (size_t i = 0; i < r->n_targets && result >= 0; i++) {
        result = check_target(r, &r->targets[i]);
        if (!r->targets[i].spec)
            r->targets[i].needs_spec = !r->targets[i].vm->has_spec;
    }
    return result;
}

/* ---- the snapshot, and specs made from it: on a thread ---- */

/* A tap device is one VM's. */
static int check_taps(struct restore *r, const struct restore_target *t)
{
    int fd = openat(r->manager->specs_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    int result = 0;

    if (!dir) {
        fd_close(fd);
        return -errno;
    }
    while (result >= 0 && (entry = readdir(dir))) {
        auto_json json_t *other = NULL;
        const char *name, *tap;

        if (entry->d_name[0] == '.' || specs_read(r->manager->specs_fd, entry->d_name, &other, NULL) < 0)
            continue;
        name = json_string_value(json_object_get(other, "name"));
        tap = restore_spec_same_tap(t->spec, other);
        if (tap && !streq_opt(name, t->name))
            result = err_set(
                &r->err, EBUSY, "refused",
                "tap device %s is of %s: write a spec of %s with a device of its own, apply it with \"enabled\": false, then restore", tap,
                name ? name : entry->d_name, t->name);
    }
    closedir(dir);
    return result;
}

static int make_spec(struct restore *r, struct restore_target *t, const struct snapshot *snapshot, json_t *notes)
{
    auto_json json_t *from = NULL;
    int result;

    if (!snapshot->spec)
        return err_set(&r->err, EINVAL, "refused", "snapshot %s/%s has no spec in it, and %s has none: apply one of %s first", r->from.vm,
                       r->from.snapshot, t->name, t->name);
    result = json_parse(snapshot->spec, strlen(snapshot->spec), &from, &r->err);
    if (result >= 0)
        result = restore_spec_make(from, snapshot->vm, t->name, notes, &t->spec);
    return result < 0 ? result : check_taps(r, t);
}

static void look_run(struct job *job)
{
    struct restore *r = container_of(job, struct restore_job, job)->restore;
    auto_snapshot_info struct snapshot_info info = { 0 };

    r->r = snapshots_read(r->manager->snapshots_fd, r->from.vm, r->from.snapshot, &info);
    if (r->r == -ENOENT)
        err_set(&r->err, ENOENT, "no-snapshot", "there is no snapshot %s/%s", r->from.vm, r->from.snapshot);
    if (r->r >= 0 && info.damaged)
        r->r = err_set(&r->err, EINVAL, "refused", "snapshot %s/%s is damaged: %s", r->from.vm, r->from.snapshot, info.damaged);
    for (size_t i = 0; i < r->n_targets && r->r >= 0; i++) {
        auto_json json_t *unused = json_array();
        struct restore_target *t = &r->targets[i];

        /* What has to be said of one clone is said once, not a hundred times. */
        if (!t->needs_spec)
            continue;
        r->r = unused ? make_spec(r, t, &info.found, i == 0 ? r->notes : unused) : -ENOMEM;
    }
}

/* ---- would each start? ---- */

static void all_planned(struct restore *r);

static void planned(struct plan_request *p)
{
    struct restore *r = p->arg;

    if (p->r < 0 && r->r >= 0) {
        r->r = p->r;
        r->err = p->err;
        if (streq(p->err.id, "damaged") || streq(p->err.id, "other-hardware"))
            snprintf(r->err.id, sizeof(r->err.id), "refused");
        json_decref(r->problems);
        r->problems = json_incref(p->problems);
    }
    plan_request_free(p);
    if (--r->planned == 0)
        all_planned(r);
}

static int begin_plan(struct restore *r, struct restore_target *t)
{
    struct plan_request *p = plan_request_new(t->vm, PLAN_TRY, planned, r);

    if (!p || wanted_restore_set(&p->restore, &r->from) < 0) {
        plan_request_free(p);
        return -ENOMEM;
    }
    p->given = json_incref(t->spec);
    r->planned++;
    plan_request_begin(p);
    return 0;
}

static void looked(struct job *job)
{
    struct restore *r = container_of(job, struct restore_job, job)->restore;

    if (r->r < 0) {
        end(r, r->r);
        return;
    }
    r->planned = 1;
    for (size_t i = 0; i < r->n_targets && r->r >= 0; i++) {
        if (begin_plan(r, &r->targets[i]) < 0)
            r->r = -ENOMEM;
    }
    if (--r->planned == 0)
        all_planned(r);
}

/* ---- specs to disk ---- */

/* The spec may well say "enabled". A manager that finds it, and not the wish to restore since this one has died between the two, must not
 * boot the VM: until then nothing is wanted of it. */
static int hold_back(const struct restore *r, const struct restore_target *t)
{
    const struct record_dirs dirs = { r->manager->run_vms_fd, r->manager->state_vms_fd };
    auto_wanted struct wanted wanted = { .schema = WANTED_SCHEMA };
    auto_free char *text = NULL, *why = NULL;
    auto_json json_t *json = NULL;
    auto_fd int fd = records_state_dir(&dirs, t->name);
    size_t len;
    int result = fd < 0 ? fd : records_read_wanted(&dirs, t->name, &wanted, &why);

    if (result < 0 && result != -EINVAL)
        return result;
    wanted.wish = WANTED_STOPPED;
    wanted_restore_clear(&wanted.restore);
    result = record_emit(&wanted_type, &wanted, &json);
    if (result >= 0)
        result = json_format(json, &text, &len);
    return result < 0 ? result : file_write(fd, FILE_WANTED, text, len, FILE_MODE, FILE_DURABLE);
}

static int write_spec(struct restore *r, struct restore_target *t)
{
    auto_free char *text = NULL, *lines = NULL;
    char file[VM_PATH_MAX];
    int result;

    if (!t->spec)
        return 0;
    snprintf(file, sizeof(file), "%s.json", t->name);
    if (faccessat(r->manager->specs_fd, file, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return err_set(&r->err, EEXIST, "refused", "there is a spec %s/%s that the manager has not read: apply or remove it first",
                       r->manager->specs_dir, file);
    result = hold_back(r, t);
    if (result < 0)
        return err_set_errno(&r->err, -result, "not-saved", "can't write %s/" FOLDER_VMS "/%s/" FILE_WANTED, r->manager->dirs.state,
                             t->name);
    result = json_format_indented(t->spec, &text, NULL);
    if (result >= 0)
        result = str_format(&lines, "%s\n", text);
    if (result >= 0)
        result = file_write(r->manager->specs_fd, file, lines, strlen(lines), FILE_MODE, FILE_DURABLE);
    if (result < 0)
        return err_set_errno(&r->err, -result, "not-saved", "can't write %s/%s", r->manager->specs_dir, file);
    t->written = true;
    return 0;
}

static void remove_specs(struct restore *r)
{
    for (size_t i = 0; i < r->n_targets; i++) {
        char file[VM_PATH_MAX];

        snprintf(file, sizeof(file), "%s.json", r->targets[i].name);
        if (r->targets[i].written && unlinkat(r->manager->specs_fd, file, 0) < 0)
            log_vm_warning(r->targets[i].name, "can't remove its spec, which a restore made in vain: %s", strerror(errno));
    }
}

static void write_run(struct job *job)
{
    struct restore *r = container_of(job, struct restore_job, job)->restore;

    for (size_t i = 0; i < r->n_targets && r->r >= 0; i++)
        r->r = write_spec(r, &r->targets[i]);
    if (r->r < 0)
        remove_specs(r);
}

/* ---- the wishes ---- */

static int wish(struct restore *r, struct restore_target *t)
{
    bool is_new = !registry_find(r->manager, t->name);
    struct vm *vm = registry_get_or_add(r->manager, t->name);
    struct wanted_restore restore = r->from;

    if (!vm)
        return -ENOMEM;
    vm_unref(t->vm);
    t->vm = vm_ref(vm);
    if (t->spec) {
        specs_note(vm, t->spec);
        vm->check_due = false;
        (void)str_set(&vm->spec_error, NULL);
    }
    log_vm_info(vm->name, "restored from %s/%s", restore.vm, restore.snapshot);
    vm->stop_due = lives(vm) && !vm->launch;
    t->write = api_wish_life(vm, &restore, &t->target);
    if (is_new) {
        vm->from_next = true;
        down_begin(vm); /* an earlier VM of this name may have left its last exit */
    }
    vm_changed(vm);
    return 0;
}

static void written(struct job *job)
{
    struct restore *r = container_of(job, struct restore_job, job)->restore;

    for (size_t i = 0; i < r->n_targets && r->r >= 0; i++)
        r->r = wish(r, &r->targets[i]);
    watch_release(r->manager);
    end(r, r->r);
}

static void all_planned(struct restore *r)
{
    if (r->r >= 0)
        r->r = check_targets(r); /* some time has passed */
    if (r->r < 0) {
        end(r, r->r);
        return;
    }
    if (plan_restore_mode(r->from.mode) != r->from.mode)
        (void)json_array_append_new(r->notes, json_string("HOLDFAST_UFFD=0: its memory is mapped from the snapshot, not served lazily"));
    watch_hold(r->manager);
    begin_job(r, r->manager->writer, write_run, written);
}

void restore_begin(struct restore *r)
{
    r->r = check_targets(r);
    if (r->r < 0)
        end(r, r->r);
    else
        begin_job(r, r->manager->archivist, look_run, looked);
}
