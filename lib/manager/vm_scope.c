#include "lib/manager/vm_scope.h"

#include <errno.h>
#include <string.h>

#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/loop/worker.h"
#include "lib/manager/cgroup.h"
#include "lib/manager/records.h"
#include "lib/manager/scope.h"
#include "lib/manager/state.h"
#include "proto/launch.h"
#include "proto/plan.h"

/* One VM's way into its scope. */
struct vm_scope {
    struct vm *vm; /* referenced */
    struct scope_move *move;
    struct limits limits;
    pid_t shim;
    void (*done)(struct vm *vm); /* NULL: nobody waits */
};

static void vm_scope_free(struct vm_scope *s)
{
    scope_move_cancel(s->move);
    if (s->vm->scope == s)
        s->vm->scope = NULL;
    vm_unref(s->vm);
    free(s);
}

void vm_scope_cancel(struct vm *vm)
{
    if (vm->scope)
        vm_scope_free(vm->scope);
}

/* The same for a thousand VMs, so the whole of it is said once, until it is another. */
static void say_loudly(struct vm *vm, const struct err *err)
{
    struct manager *m = vm->manager;
    /* Without the unit's name, which is another for each VM. */
    const char *unit_end = has_prefix(err->text, "holdfast-vm-") ? strstr(err->text, ".scope: ") : NULL;
    const char *why = unit_end ? unit_end + strlen(".scope: ") : err->text;
    char *text = NULL;

    (void)str_format(&text, "it has no scope of its own: %s", why);
    free(vm->scope_error);
    vm->scope_error = steal_ptr(&text);
    log_vm_warning(vm->name, "has no scope of its own: %s", why);
    if (streq_opt(m->scope_problem, why))
        return;
    (void)str_set(&m->scope_problem, why);
    log_warning("VMs without a scope stay in the cgroup of whoever started their shim: that of the manager's unit is safe from a restart "
                "only by KillMode=process, and \"limits\" are not in force (%s)",
                why);
}

/* Whether the word is one of the text's, which are separated by spaces. */
static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = text; *at; at += strspn(at, " \n")) {
        size_t len = strcspn(at, " \n");

        if (len == n && memcmp(at, word, n) == 0)
            return true;
        at += len;
    }
    return false;
}

static void check_limits(const struct vm *vm, const struct limits *l, pid_t pid)
{
    const struct {
        bool wanted;
        const char *controller;
    } needed[] = {
        { l->cpu_quota || l->cpu_weight, "cpu" },
        { l->memory_high || l->memory_max, "memory" },
        { l->io_weight, "io" },
    };
    auto_free char *there = limits_any(l) ? cgroup_controllers(pid) : NULL;

    for (size_t i = 0; there && i < ARRAY_LEN(needed); i++)
        if (needed[i].wanted && !has_word(there, needed[i].controller))
            log_vm_warning(vm->name, "limits on %s are not in force: its cgroup has no such controller", needed[i].controller);
}

static void on_moved(void *arg, const struct err *err)
{
    struct vm_scope *s = arg;
    struct vm *vm = vm_ref(s->vm);
    void (*done)(struct vm * vm) = s->done;
    auto_free char *unit = scope_unit(vm->manager->scopes, vm->name);

    s->move = NULL; /* over */
    if (err) {
        say_loudly(vm, err);
    } else {
        free(steal_ptr(&vm->manager->scope_problem));
        free(steal_ptr(&vm->scope_error));
        check_limits(vm, &s->limits, s->shim);
        log_vm_debug(vm->name, "is in %s", unit ? unit : "its scope");
    }
    vm_scope_free(s);
    if (done)
        done(vm);
    vm_unref(vm);
}

static struct vm_scope *vm_scope_new(struct vm *vm, pid_t shim)
{
    struct vm_scope *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->vm = vm_ref(vm);
    s->shim = shim;
    vm->scope = s;
    return s;
}

static void move(struct vm_scope *s, const pid_t *pids, size_t n_pids)
{
    const struct scope_request what = {
        .vm = s->vm->name, .pids = pids, .n_pids = n_pids, .limits = &s->limits, .done = on_moved, .arg = s
    };
    struct err err = ERR_INIT;
    int r = scope_move(s->vm->manager->scopes, &what, &s->move, &err);

    if (r < 0) {
        (void)err_from(&err, r, "a scope");
        on_moved(s, &err);
    }
}

/* ---- at the launch ---- */

void vm_scope_launch(struct vm *vm, pid_t shim, const struct limits *limits, void (*done)(struct vm *vm))
{
    struct scopes *scopes = vm->manager->scopes;
    struct vm_scope *s;

    vm_scope_cancel(vm); /* of a shim that is gone by now */
    vm->scope_checked = shim;
    free(steal_ptr(&vm->scope_error));
    if (!scopes_possible(scopes)) {
        if (limits && limits_any(limits))
            log_vm_warning(vm->name, "limits are not in force: they are set by systemd, which doesn't run this host");
        done(vm);
        return;
    }
    s = shim > 0 ? vm_scope_new(vm, shim) : NULL;
    if (!s) {
        log_vm_warning(vm->name, "has no scope of its own: %s", shim > 0 ? "out of memory" : "its shim's pid isn't known");
        done(vm);
        return;
    }
    if (limits)
        s->limits = *limits;
    s->done = done;
    move(s, &shim, 1);
}

/* ---- those that were found ---- */

struct find_job {
    struct job job;
    struct vm *vm; /* referenced */
    pid_t shim, qemu;
    struct limits limits;
    pid_t pids[SCOPE_PIDS_MAX];
    size_t n_pids;
};

static void add(struct find_job *f, pid_t pid)
{
    for (size_t i = 0; i < f->n_pids; i++)
        if (f->pids[i] == pid)
            return;
    if (pid > 0 && f->n_pids < SCOPE_PIDS_MAX)
        f->pids[f->n_pids++] = pid;
}

static void read_limits(struct find_job *f)
{
    auto_plan struct plan plan = { 0 };
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    char path[VM_PATH_MAX];
    size_t len;

    if (file_read(f->vm->manager->run_vms_fd, vm_path(f->vm, FILE_PLAN, path), RECORD_MAX, &text, &len) >= 0 &&
        json_parse(text, len, &json, NULL) >= 0 && plan_from_json(json, &plan, NULL) >= 0)
        f->limits = plan.limits;
}

static void find(struct job *job)
{
    struct find_job *f = container_of(job, struct find_job, job);
    const struct manager *m = f->vm->manager;
    const struct record_dirs dirs = { m->run_vms_fd, m->state_vms_fd };
    struct status auto_status status = { 0 };
    pid_t pids[SCOPE_PIDS_MAX];
    size_t n;

    read_limits(f);
    add(f, f->shim);
    add(f, f->qemu);
    if (records_read_status(&dirs, f->vm->name, &status) < 0)
        return;
    n = cgroup_vm_pids(status.cgroup, pids, ARRAY_LEN(pids));
    for (size_t i = 0; i < n; i++)
        add(f, pids[i]);
}

static void found(struct job *job)
{
    struct find_job *f = container_of(job, struct find_job, job);
    struct vm *vm = f->vm;
    bool same = vm->shim_pid == f->shim && vm->qemu_pid == f->qemu && vm->presence == PRESENCE_SHIM;
    struct vm_scope *s = NULL;

    if (!vm->manager->stopping && !vm->scope && same)
        s = vm_scope_new(vm, f->shim);
    if (s) {
        s->limits = f->limits;
        log_vm_info(vm->name, "its %s is not in its scope: moving it there",
                    scope_holds(vm->manager->scopes, vm->name, f->shim) ? "QEMU" : "shim");
        move(s, f->pids, f->n_pids);
    }
    vm_unref(vm);
    free(f);
}

void vm_scope_check(struct vm *vm)
{
    struct scopes *scopes = vm->manager->scopes;
    struct find_job *f;

    if (!scopes_possible(scopes) || vm->scope_checked == vm->shim_pid || vm->shim_pid <= 0 || vm->scope)
        return;
    vm->scope_checked = vm->shim_pid;
    if (scope_holds(scopes, vm->name, vm->shim_pid) && (vm->qemu_pid <= 0 || scope_holds(scopes, vm->name, vm->qemu_pid)))
        return;
    /* Also one that stays because it could not be moved: tried again by each manager, and told by each. */
    f = calloc(1, sizeof(*f));
    if (!f)
        return;
    f->vm = vm_ref(vm);
    f->shim = vm->shim_pid;
    f->qemu = vm->qemu_pid;
    f->job.run = find;
    f->job.done = found;
    worker_add(vm->manager->reader, &f->job);
}
