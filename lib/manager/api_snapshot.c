/* The methods that look at the store of snapshots, and delete from it: who uses one is asked first, the rest is a thread's. */
#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/manager/api.h"
#include "lib/manager/snapshot_coverage.h"
#include "lib/manager/snapshot_task.h"
#include "lib/manager/snapshot_users.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/state.h"

/* A call on its way: list, show and delete. */
struct look {
    struct job job;
    struct manager *manager;
    struct answer answer;
    char *vm, *name; /* NULL: all of them */
    struct snapshot_users *users;
    /* found */
    int r;
    struct err err; /* with id "refused": no failure, but not so */
    json_t *reply;
};

static void look_free(struct look *l)
{
    snapshot_users_free(l->users);
    json_decref(l->reply);
    free(l->vm);
    free(l->name);
    free(l);
}

static void looked(struct job *job)
{
    struct look *l = container_of(job, struct look, job);
    struct varlink_call *call = l->answer.call;

    if (!call)
        ; /* asked and gone */
    else if (l->r == -ENOENT)
        api_no_such_snapshot(call, l->vm, l->name);
    else if (l->r == -ENOMEM)
        api_fail_memory(call);
    else if (l->r < 0 && streq(l->err.id, "refused"))
        api_refuse(call, l->vm, "%s", l->err.text);
    else if (l->r < 0)
        api_fail(call, l->vm, l->err.id, NULL, "%s", l->err.text);
    else
        varlink_call_reply_consume(call, steal_ptr(&l->reply));
    look_free(l);
}

static void asked(void *arg, struct snapshot_users *users)
{
    struct look *l = arg;

    l->users = users;
    if (!users) {
        l->r = -ENOMEM;
        looked(&l->job);
        return;
    }
    worker_add(l->manager->archivist, &l->job);
}

static void look_begin(struct varlink_call *call, struct manager *m, const char *vm, const char *name, void (*run)(struct job *job))
{
    struct look *l = calloc(1, sizeof(*l));

    if (l)
        l->manager = m;
    if (!l || str_set(&l->vm, vm) < 0 || str_set(&l->name, name) < 0) {
        if (l)
            look_free(l);
        api_fail_memory(call);
        return;
    }
    l->job.run = run;
    l->job.done = looked;
    answer_bind(&l->answer, call);
    snapshot_users_ask(m, asked, l);
}

static const char *text_of(const json_t *parameters, const char *key) { return json_string_value(json_object_get(parameters, key)); }

/* ---- list ---- */

static int wire(const struct look *l, const struct snapshot_info *info, json_t **ret)
{
    const char *silent;
    json_t *names = NULL;
    int r = snapshot_users_of(l->users, l->manager, info, &names, &silent);

    if (r < 0)
        return r;
    *ret = snapshot_to_wire_consume(info, names);
    return *ret ? 0 : -ENOMEM;
}

static void list_run(struct job *job)
{
    struct look *l = container_of(job, struct look, job);
    auto_snapshot_list struct snapshot_list list = { 0 };
    auto_json json_t *all = json_array();

    l->r = all ? snapshot_users_read(l->users, l->manager) : -ENOMEM;
    if (l->r >= 0)
        l->r = snapshots_list(l->manager->snapshots_fd, l->vm, &list);
    for (size_t i = 0; l->r >= 0 && i < list.n; i++) {
        json_t *one = NULL;

        l->r = wire(l, &list.items[i], &one);
        if (l->r >= 0 && json_array_append_new(all, one) < 0)
            l->r = -ENOMEM;
    }
    if (l->r >= 0)
        l->reply = json_pack("{s:O}", "snapshots", all);
    else if (l->r != -ENOMEM)
        l->r = err_set_errno(&l->err, l->r == -ENOENT ? EIO : -l->r, "unreadable", "the snapshots can't be read");
}

void api_snapshot_list(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    const char *name = text_of(parameters, "name");

    if (name && !name_is_valid(name))
        api_no_such_vm(call, name);
    else
        look_begin(call, m, name, NULL, list_run);
}

/* ---- show ---- */

static int show_memory(struct look *l, const struct snapshot_info *info, struct coverage *present, struct coverage *needed)
{
    auto_memory_index struct memory_index *index = NULL;
    auto_working_set struct working_set set = { 0 };
    auto_fd int fd = snapshots_open(l->manager->snapshots_fd, l->vm, l->name);
    int r;

    if (fd < 0)
        return fd;
    r = snapshot_read_index(fd, &info->found, false, &index, &l->err);
    if (r < 0)
        return r;
    coverage_of_index(index, present);
    r = snapshot_read_working_set(fd, &info->found, &set, &l->err);
    if (r == -ENOENT)
        return 0;
    return r < 0 ? r : coverage_of_working_set(&set, needed);
}

static void show_run(struct job *job)
{
    struct look *l = container_of(job, struct look, job);
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_json json_t *details = NULL, *snapshot = NULL;
    struct coverage present = { 0 }, needed = { 0 };

    l->r = snapshot_users_read(l->users, l->manager);
    if (l->r >= 0)
        l->r = snapshots_read(l->manager->snapshots_fd, l->vm, l->name, &info);
    if (l->r >= 0 && !info.damaged)
        l->r = show_memory(l, &info, &present, &needed);
    if (l->r == -EINVAL) /* what is wrong with it is shown, too */
        l->r = str_set(&info.damaged, l->err.text);
    if (l->r >= 0 && info.found.id)
        (void)snapshot_to_json(&info.found, &details);
    if (l->r >= 0)
        l->r = wire(l, &info, &snapshot);
    if (l->r >= 0)
        l->reply = json_pack("{s:O, s:O*, s:o, s:o, s:I, s:I, s:I}", "snapshot", snapshot, "details", details, "present",
                             coverage_to_wire(&present), "working_set", coverage_to_wire(&needed), "pages", (json_int_t)present.pages,
                             "present_pages", (json_int_t)present.covered, "working_set_pages", (json_int_t)needed.covered);
    else if (l->r != -ENOMEM && l->r != -ENOENT)
        err_from(&l->err, l->r, "reading the snapshot");
}

void api_snapshot_show(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    look_begin(call, userdata, text_of(parameters, "vm"), text_of(parameters, "snapshot"), show_run);
}

/* ---- delete ---- */

/* 0: nobody uses it. */
static int check_unused(struct look *l, const struct snapshot_info *info)
{
    auto_json json_t *names = NULL;
    const char *silent = NULL;
    size_t n;
    int r = snapshot_users_of(l->users, l->manager, info, &names, &silent);

    if (r < 0)
        return r;
    n = json_array_size(names);
    if (n > 0) {
        const char *first = json_string_value(json_array_get(names, 0));
        char more[32] = "";

        if (n > 1)
            snprintf(more, sizeof(more), " and %zu more", n - 1);
        return err_set(
            &l->err, EBUSY, "refused",
            "%s/%s is in use by %s%s: its memory or its disks come from files of it; stop it, and if that isn't enough delete it with its "
            "disks (vmctl delete --purge)",
            l->vm, l->name, first, more);
    }
    if (silent)
        return err_set(&l->err, EBUSY, "refused", "whether %s uses %s/%s can't be told, since its shim doesn't answer: nothing was deleted",
                       silent, l->vm, l->name);
    return 0;
}

static void delete_run(struct job *job)
{
    struct look *l = container_of(job, struct look, job);
    auto_snapshot_info struct snapshot_info info = { 0 };

    l->r = snapshot_users_read(l->users, l->manager);
    if (l->r >= 0)
        l->r = snapshots_read(l->manager->snapshots_fd, l->vm, l->name, &info);
    if (l->r >= 0)
        l->r = check_unused(l, &info);
    if (l->r < 0)
        return;
    l->r = snapshots_delete(l->manager->snapshots_fd, l->vm, l->name);
    if (l->r >= 0)
        log_vm_info(l->vm, "snapshot %s deleted", l->name);
    else if (l->r == -EBUSY)
        err_set(&l->err, EBUSY, "refused", "a VM needs pages of %s/%s: stop it first", l->vm, l->name);
    else if (l->r != -ENOENT)
        err_set_errno(&l->err, -l->r, "delete", "%s/%s can't be deleted", l->vm, l->name);
}

void api_snapshot_delete(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    look_begin(call, userdata, text_of(parameters, "vm"), text_of(parameters, "snapshot"), delete_run);
}

/* ---- verify ---- */

struct verify {
    struct long_job job;
    char *vm, *name;
    int r;
    struct err err;
    uint64_t pages;
};

static void verify_free(struct verify *v)
{
    free(v->vm);
    free(v->name);
    free(v);
}

static void verify_run(struct job *job)
{
    struct verify *v = container_of(job, struct verify, job.job);
    const struct manager *m = v->job.manager;
    auto_snapshot_info struct snapshot_info info = { 0 };
    auto_fd int fd = -1;

    v->r = snapshots_read(m->snapshots_fd, v->vm, v->name, &info);
    if (v->r >= 0)
        v->r = fd = snapshots_open(m->snapshots_fd, v->vm, v->name);
    if (v->r < 0)
        return;
    if (info.damaged) {
        v->r = err_set(&v->err, EINVAL, "damaged", "%s", info.damaged);
        return;
    }
    v->r = snapshot_verify(fd, &info.found, &v->job.progress, &v->pages, &v->err);
    if (v->r == -ENOENT) /* of a file in it: the snapshot itself is there */
        v->r = -EINVAL;
}

static void verify_done(struct job *job)
{
    struct verify *v = container_of(job, struct verify, job.job);
    struct varlink_call *call = v->job.answer.call;

    long_job_ended(&v->job);
    if (!call)
        ; /* gone, and it was called off */
    else if (v->r == -ENOENT)
        api_no_such_snapshot(call, v->vm, v->name);
    else if (v->r == -ENOMEM)
        api_fail_memory(call);
    else if (v->r < 0)
        api_fail(call, v->vm, "damaged", NULL, "%s/%s: %s", v->vm, v->name, v->err.code ? v->err.text : strerror(-v->r));
    else
        varlink_call_reply_consume(call, json_pack("{s:I}", "pages", (json_int_t)v->pages));
    verify_free(v);
}

void api_snapshot_verify(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    struct verify *v = calloc(1, sizeof(*v));

    if (!v || str_set(&v->vm, text_of(parameters, "vm")) < 0 || str_set(&v->name, text_of(parameters, "snapshot")) < 0) {
        if (v)
            verify_free(v);
        api_fail_memory(call);
        return;
    }
    v->job.manager = m;
    v->job.phase = "verifying";
    v->job.job.run = verify_run;
    v->job.job.done = verify_done;
    long_job_begin(&v->job, m->verifier, call);
}
