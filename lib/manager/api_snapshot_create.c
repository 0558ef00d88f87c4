/* SnapshotCreate: what can be said against it is found out first, the snapshot itself is the shim's. It goes on there whoever goes away. */
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/api.h"
#include "lib/manager/call.h"
#include "lib/manager/rollout.h"
#include "lib/manager/snapshot_task.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "proto/plan.h"

struct create {
    struct job job;
    struct vm *vm; /* referenced */
    struct answer answer;
    char *name, *spec_file;
    bool live;
    uint64_t incarnation;
    bool made; /* the snapshot is there, and is read back */
    /* found */
    int r;
    struct err err;
    char *spec; /* NULL: there is none that can be read */
    struct snapshot_info info;
};

static void create_free(struct create *c)
{
    vm_unref(c->vm);
    snapshot_info_clear(&c->info);
    free(c->name);
    free(c->spec_file);
    free(c->spec);
    free(c);
}

/* ---- may it? ---- */

static int check_plan(const struct plan *plan, struct err *err)
{
    if (!plan->ram.shared)
        return err_set(
            err, EOPNOTSUPP, "refused",
            "the memory of %s is private to QEMU, as that of confidential VMs and those with passed-through devices is: there are no "
            "snapshots of it; stop it and copy its disks",
            plan->name);
    for (char **word = plan->qemu.argv; *word; word++)
        if (strstr(*word, "vfio-"))
            return err_set(err, EOPNOTSUPP, "refused",
                           "%s has a passed-through device (%s), whose state can't be saved: stop it and copy its disks", plan->name,
                           *word);
    return 0;
}

static int check_running_plan(struct create *c)
{
    auto_plan struct plan plan = { 0 };
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    char path[VM_PATH_MAX];
    size_t len;
    int r;

    r = file_read(c->vm->manager->run_vms_fd, vm_path(c->vm, FILE_PLAN, path), RECORD_MAX, &text, &len);
    if (r < 0)
        return err_set_errno(&c->err, -r, "unreadable", "can't read %s of %s", FILE_PLAN, c->vm->name);
    r = json_parse(text, len, &json, &c->err);
    if (r >= 0)
        r = plan_from_json(json, &plan, &c->err);
    if (r < 0) {
        err_prefix(&c->err, "%s of %s", FILE_PLAN, c->vm->name);
        return r;
    }
    return check_plan(&plan, &c->err);
}

/* Kept with the snapshot so that it can become another VM; one that can't be read is no reason against a snapshot. */
static int read_spec(struct create *c)
{
    auto_json json_t *json = NULL, *native = NULL;
    int r = specs_read(c->vm->manager->specs_fd, c->spec_file, &json, NULL);

    if (r >= 0)
        r = specs_to_native(json, &native);
    if (r < 0)
        return r == -ENOMEM ? r : 0;
    return json_is_object(native) ? json_format(native, &c->spec, NULL) : 0;
}

static int check_name(struct create *c)
{
    const struct manager *m = c->vm->manager;
    auto_fd int vm_fd = dir_open(m->snapshots_fd, c->vm->name);

    /* Whatever has the name, a snapshot or not. */
    if (vm_fd >= 0 && faccessat(vm_fd, c->name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return err_set(&c->err, EEXIST, "refused", "there is a snapshot %s/%s: delete it first, or give another name", c->vm->name,
                       c->name);
    return 0;
}

static void check_run(struct job *job)
{
    struct create *c = container_of(job, struct create, job);
    const struct manager *m = c->vm->manager;

    c->r = check_name(c);
    if (c->r >= 0)
        c->r = check_running_plan(c);
    if (c->r >= 0)
        c->r = read_spec(c);
    if (c->r < 0)
        return;
    (void)snapshots_sweep(m->snapshots_fd, m->run_vms_fd);
    c->r = snapshots_make_folder(m->snapshots_fd, c->vm->name);
    if (c->r < 0)
        err_set_errno(&c->err, -c->r, "no-folder", "can't make the folder %s/" FOLDER_SNAPSHOTS "/%s", m->dirs.state, c->vm->name);
}

static void fail(struct create *c)
{
    struct varlink_call *call = c->answer.call;

    if (!call)
        return;
    if (c->r == -ENOMEM)
        api_fail_memory(call);
    else if (streq(c->err.id, "refused"))
        api_refuse(call, c->vm->name, "%s", c->err.text);
    else
        api_fail(call, c->vm->name, *c->err.id ? c->err.id : "snapshot", NULL, "%s", *c->err.text ? c->err.text : strerror(-c->r));
}

/* False: it is answered. */
static bool may_create(struct vm *vm, struct varlink_call *call)
{
    const char *state = enum_to_string(&vm_view_names, vm->view);

    if (vm->view == VIEW_UNRESPONSIVE)
        api_unresponsive(call, vm);
    else if (vm->presence == PRESENCE_SHIM && vm->answered && (vm->view == STATE_RUNNING || vm->view == STATE_PAUSED))
        return true;
    else if (vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch)
        api_refuse(call, vm->name, "%s is %s: a snapshot can be taken once it runs", vm->name, state);
    else
        api_refuse(call, vm->name, "%s is %s: a snapshot is of a VM that runs, start it first", vm->name, state);
    return false;
}

/* ---- done ---- */

static void made_run(struct job *job)
{
    struct create *c = container_of(job, struct create, job);

    if (c->made)
        c->r = snapshots_read(c->vm->manager->snapshots_fd, c->vm->name, c->name, &c->info);
    else
        snapshots_drop_folder(c->vm->manager->snapshots_fd, c->vm->name);
}

static void made_done(struct job *job)
{
    struct create *c = container_of(job, struct create, job);

    if (c->made && c->r < 0)
        fail(c);
    else if (c->made && c->answer.call)
        varlink_call_reply_consume(c->answer.call, json_pack("{s:o}", "snapshot", snapshot_to_wire_consume(&c->info, json_array())));
    create_free(c);
}

/* The shim is through with it. */
static void finish(struct create *c)
{
    c->job.run = made_run;
    c->job.done = made_done;
    worker_add(c->vm->manager->archivist, &c->job);
}

/* What the shim won't begin, since something is to be done first or otherwise; the words say what. */
static bool is_refusal(const struct varlink_reply *r)
{
    static const char *const ids[] = { "busy",          "not-running", "private-memory", "mapped", "no-userfaultfd", "no-write-protect",
                                       "saved-already", "name-taken",  "too-many-layers" };
    const char *id = json_string_value(json_object_get(r->parameters, "id"));

    for (size_t i = 0; r->error && id && i < ARRAY_LEN(ids); i++)
        if (streq(ids[i], id))
            return json_is_string(json_object_get(r->parameters, "reason"));
    return false;
}

static void on_shim(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    struct create *c = arg;
    const json_t *progress = json_object_get(r->parameters, "progress");
    const char *phase = json_string_value(json_object_get(progress, "phase"));

    if (r->failure == 0 && r->continues) {
        if (c->answer.call && phase)
            task_tell_progress(c->answer.call, phase, (uint64_t)json_integer_value(json_object_get(progress, "done")),
                               (uint64_t)json_integer_value(json_object_get(progress, "total")));
        return;
    }
    if (r->failure < 0 || r->error) {
        const char *reason = json_string_value(json_object_get(r->parameters, "reason"));

        log_vm_warning(vm->name, "no snapshot %s: %s", c->name, reason ? reason : r->error ? r->error : strerror(-r->failure));
        if (c->answer.call && is_refusal(r))
            api_refuse(c->answer.call, vm->name, "%s", reason);
        else if (c->answer.call && r->error)
            api_hand_on_error(c->answer.call, vm, r);
        else if (c->answer.call)
            api_fail(c->answer.call, vm->name, "lost", NULL,
                     "the shim of %s went away before the snapshot was whole; nothing of it is kept", vm->name);
        c->answer.call = NULL;
    } else {
        log_vm_info(vm->name, "snapshot %s taken", c->name);
        c->made = true;
    }
    vm->snapshots--;
    rollout_check(vm);
    finish(c);
}

static void check_done(struct job *job)
{
    struct create *c = container_of(job, struct create, job);
    struct vm *vm = c->vm;
    auto_free char *folder = NULL;
    int r = -ENOMEM;

    /* Whoever went away before it was begun wants none. */
    if (c->r < 0 || !c->answer.call || !may_create(vm, c->answer.call)) {
        if (c->r < 0)
            fail(c);
        c->answer.call = NULL;
        finish(c);
        return;
    }
    if (str_format(&folder, "%s/" FOLDER_SNAPSHOTS "/%s/%s", vm->manager->dirs.state, vm->name, c->name) >= 0)
        r = shim_call_more_consume(vm, "Snapshot",
                                   json_pack("{s:I, s:s, s:s, s:s*, s:b}", "incarnation", (json_int_t)c->incarnation, "folder", folder,
                                             "name", c->name, "spec", c->spec, "live", (int)c->live),
                                   on_shim, c);
    if (r >= 0) {
        vm->snapshots++;
        return;
    }
    api_fail(c->answer.call, vm->name, "unreachable", NULL, "can't reach the shim of %s: %s", vm->name, strerror(-r));
    c->answer.call = NULL;
    finish(c);
}

void api_snapshot_create(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct vm *vm = api_vm(userdata, call, parameters);
    const char *name = json_string_value(json_object_get(parameters, "snapshot"));
    char fallback[SNAPSHOT_NAME_MAX], file[VM_PATH_MAX];
    struct create *c;

    if (!vm || !may_create(vm, call))
        return;
    if (!name) {
        snapshots_default_name(fallback);
        name = fallback;
    }
    if (!name_is_valid(name)) {
        api_refuse(call, vm->name, "\"%s\" is no name of a snapshot (" NAME_RULE ")", name);
        return;
    }
    c = calloc(1, sizeof(*c));
    if (!c || str_set(&c->name, name) < 0 || str_set(&c->spec_file, specs_file(vm, file)) < 0) {
        free(c ? c->name : NULL);
        free(c);
        api_fail_memory(call);
        return;
    }
    c->vm = vm_ref(vm);
    c->live = !json_is_true(json_object_get(parameters, "stop"));
    c->incarnation = vm->incarnation;
    c->job.run = check_run;
    c->job.done = check_done;
    answer_bind(&c->answer, call);
    worker_add(vm->manager->archivist, &c->job);
}
