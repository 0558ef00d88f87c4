#include "shim/snapshot_disks.h"

#include <errno.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "shim/layers.h"
#include "shim/vm.h"

/* What is asked of QEMU for one disk, in this order. */
enum disk_call { CALL_SET, CALL_NODE, CALL_TOP, CALL_COUNT };

struct snapshot_disks {
    struct disks before; /* the record as it was */
    json_t *blocks, *fdsets;
    struct freeze freeze;
    size_t disk; /* that QEMU is being told of */
    enum disk_call call;
    uint64_t *sets;            /* of the overlays, by disk; 0: not there yet */
    bool stored, sent, frozen; /* the record names the overlays; the transaction went out; and was answered well */
};

static void fail(struct snapshot_job *job, int r, const char *what)
{
    err_from(&job->err, r, what);
    snapshot_disks_failed(job);
}

/* Only what goes wrong on the way there is reported here; a late answer of a job that was called off finds no job, or another step. */
static struct snapshot_job *answered(void *arg, const struct qmp_result *r, const char *what)
{
    struct vm *vm = arg;
    struct snapshot_job *job = vm->snapshot;

    if (!job || job->step != SNAPSHOT_DISKS)
        return NULL;
    if (r->failure == 0)
        return job;
    err_set(&job->err, EIO, "qemu", "QEMU refused %s: %s", what, r->text);
    snapshot_disks_failed(job);
    return NULL;
}

static void send(struct snapshot_job *job, const char *command, json_t *arguments_consume, int fd,
                 void (*done)(void *, const struct qmp_result *))
{
    auto_json json_t *arguments = arguments_consume;
    int r = arguments ? 0 : -ENOMEM;

    if (r >= 0)
        r = qmp_client_call_fd(job->vm->qemu.qmp, command, arguments, fd, &(struct qmp_done){ QMP_TIMEOUT_MS, done, job->vm });
    if (r < 0)
        fail(job, r, command);
}

/* ---- telling QEMU of the overlays ---- */

static void tell_next(struct snapshot_job *job);

static void on_told(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, "to take a new layer for a disk");
    struct snapshot_disks *d;

    if (!job)
        return;
    d = job->disks;
    if (d->call == CALL_SET && layers_fdset(json_object_get(r->reply, "return"), &d->sets[d->disk]) < 0) {
        fail(job, -EPROTO, "handing QEMU a new layer");
        return;
    }
    d->call++;
    tell_next(job);
}

static json_t *set_argument(uint64_t set) { return json_pack("{sI}", "fdset-id", (json_int_t)set); }

static void tell(struct snapshot_job *job, const struct frozen_disk *disk)
{
    struct snapshot_disks *d = job->disks;

    switch (d->call) {
    case CALL_SET:
        send(job, "add-fd", json_object(), disk->overlay_fd, on_told);
        return;
    case CALL_NODE:
        send(job, "blockdev-add", layers_overlay_node(disk, d->sets[d->disk]), -1, on_told);
        return;
    case CALL_TOP:
        send(job, "add-fd", layers_frozen_fd(disk), disk->frozen_fd, on_told);
        return;
    case CALL_COUNT:
        return;
    }
}

static void tell_next(struct snapshot_job *job)
{
    struct snapshot_disks *d = job->disks;
    int r;

    if (d->call == CALL_COUNT) {
        d->call = CALL_SET;
        d->disk++;
    }
    while (d->disk < d->freeze.n_disks && d->freeze.disks[d->disk].readonly)
        d->disk++;
    if (d->disk < d->freeze.n_disks) {
        tell(job, &d->freeze.disks[d->disk]);
        return;
    }
    /* Before QEMU can write to an overlay, a restart must know of it. */
    r = layers_store(job->vm->state_fd, &d->freeze.record, &job->err);
    if (r < 0) {
        fail(job, r, "writing down the disks' layers");
        return;
    }
    d->stored = true;
    snapshot_disks_ready(job);
}

/* ---- making them ---- */

static int run_prepare(void *arg, struct err *err)
{
    struct snapshot_job *job = arg;
    struct snapshot_disks *d = job->disks;
    const struct freeze_input input = {
        .state_fd = job->vm->state_fd,
        .plan = &job->vm->plan,
        .disks = &d->before,
        .blocks = d->blocks,
        .fdsets = d->fdsets,
        .qemu = &job->vm->qemu.ref,
    };
    int r = layers_freeze_prepare(&input, &d->freeze, err);

    if (r >= 0)
        layers_presync(&d->freeze);
    return r;
}

static void on_prepared(void *arg, int r, const struct err *err)
{
    struct snapshot_job *job = arg;
    struct snapshot_disks *d = job->disks;

    if (job->step != SNAPSHOT_DISKS) { /* called off meanwhile */
        snapshot_disks_failed(job);
        return;
    }
    if (r >= 0) {
        d->sets = calloc(d->freeze.n_disks + 1, sizeof(*d->sets));
        r = d->sets ? 0 : -ENOMEM;
    } else {
        job->err = *err;
    }
    if (r < 0) {
        fail(job, r, "preparing the disks");
        return;
    }
    tell_next(job);
}

static void on_fdsets(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, "to say which files it has");
    int started;

    if (!job)
        return;
    job->disks->fdsets = json_incref(json_object_get(r->reply, "return"));
    started = task_start(job->vm->loop, &(struct task_work){ run_prepare, on_prepared, job }, &job->task);
    if (started < 0)
        fail(job, started, "preparing the disks");
}

static void on_blocks(void *arg, const struct qmp_result *r)
{
    struct snapshot_job *job = answered(arg, r, "to say which disks it has");

    if (!job)
        return;
    job->disks->blocks = json_incref(json_object_get(r->reply, "return"));
    send(job, "query-fdsets", json_object(), -1, on_fdsets);
}

void snapshot_disks_prepare(struct snapshot_job *job)
{
    struct snapshot_disks *d = job->disks = calloc(1, sizeof(*d));
    int r;

    if (!d) {
        fail(job, -ENOMEM, "preparing the disks");
        return;
    }
    r = layers_load(job->vm->state_fd, &job->vm->plan, &d->before, &job->err);
    if (r < 0)
        fail(job, r, "reading the disks' layers");
    else
        send(job, "query-block", json_object(), -1, on_blocks);
}

/* ---- freezing, or not ---- */

json_t *snapshot_disks_transaction(struct snapshot_job *job)
{
    json_t *transaction = NULL;

    for (size_t i = 0; i < job->disks->freeze.n_disks; i++)
        if (!job->disks->freeze.disks[i].readonly) {
            transaction = layers_transaction(&job->disks->freeze);
            break;
        }
    job->disks->sent = transaction;
    return transaction;
}

void snapshot_disks_frozen(struct snapshot_job *job)
{
    int r = layers_unlock(&job->disks->freeze);

    job->disks->frozen = true;
    if (r < 0)
        log_vm_warning(job->vm->plan.name, "can't take QEMU's lock off what was frozen: %s", strerror(-r));
}

void snapshot_disks_released(struct snapshot_job *job)
{
    const struct freeze *freeze = &job->disks->freeze;

    for (size_t i = 0; i < freeze->n_disks; i++) {
        auto_json json_t *written = freeze->disks[i].readonly ? NULL : layers_written_fd(&freeze->disks[i]);

        if (written && job->vm->qemu.qmp_ready)
            (void)qmp_client_call(job->vm->qemu.qmp, "remove-fd", written, QMP_TIMEOUT_MS, NULL, NULL);
    }
}

/* Not waited for: what QEMU keeps of it costs a descriptor, and the next sweep finds the file. */
static void take_back(const struct snapshot_job *job, size_t i)
{
    const struct snapshot_disks *d = job->disks;
    struct qmp_client *qmp = job->vm->qemu.qmp;
    json_t *node = json_pack("{ss}", "node-name", d->freeze.disks[i].overlay), *set = set_argument(d->sets[i]);

    if (node && set) {
        (void)qmp_client_call(qmp, "blockdev-del", node, QMP_TIMEOUT_MS, NULL, NULL);
        (void)qmp_client_call(qmp, "remove-fd", set, QMP_TIMEOUT_MS, NULL, NULL);
    }
    json_decref(node);
    json_decref(set);
}

void snapshot_disks_undo(struct snapshot_job *job)
{
    struct snapshot_disks *d = job->disks;
    struct err err = ERR_INIT;

    /* A transaction that was never answered may have happened. */
    if (!d || d->frozen || (d->sent && !job->refused))
        return;
    for (size_t i = 0; d->sets && i < d->freeze.n_disks && job->vm->qemu.qmp_ready; i++)
        if (d->sets[i] > 0)
            take_back(job, i);
    if (d->stored && layers_store(job->vm->state_fd, &d->before, &err) < 0)
        log_vm_warning(job->vm->plan.name, "%s", err.text); /* the record is right with the empty overlays, too */
}

int snapshot_disks_link(struct snapshot_job *job, struct err *err)
{
    auto_fd int folder = dir_open(job->dir, FOLDER_DISKS);
    auto_free char *path = NULL;

    if (folder < 0)
        return err_set_errno(err, -folder, "no-folder", "can't open %s of %s", FOLDER_DISKS, job->folder);
    if (str_format(&path, "%s/%s", job->folder, FOLDER_DISKS) < 0)
        return -ENOMEM;
    return layers_link(&job->disks->freeze, folder, path, &job->record, err);
}

void snapshot_disks_clear(struct snapshot_job *job)
{
    struct snapshot_disks *d = steal_ptr(&job->disks);

    if (!d)
        return;
    disks_clear(&d->before);
    json_decref(d->blocks);
    json_decref(d->fdsets);
    freeze_clear(&d->freeze);
    free(d->sets);
    free(d);
}
