/* How a snapshot ends: its memory is copied and it gets its name, or everything is undone and the guest goes on. */
#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/json.h"
#include "shim/ram.h"
#include "shim/snapshot_disks.h"
#include "shim/snapshot_job.h"
#include "shim/vm.h"

void snapshot_job_free(struct snapshot_job *job)
{
    struct ev_loop *ev = loop_ev(job->vm->loop);

    ev_timer_stop(ev, &job->deadline);
    task_join(&job->task);
    save_free(job->save); /* uses what is released below */
    ev_async_stop(ev, &job->woken);
    ram_faults_done(job->vm);
    snapshot_disks_clear(job);
    memory_index_free(job->index);
    memory_index_free(job->source_index);
    free(job->missing);
    snapshot_clear(&job->record);
    fd_close(job->state_fd);
    fd_close(job->memory_fd);
    fd_close(job->mem_fd);
    fd_close(job->dir);
    fd_close(job->parent);
    free(job->folder);
    free(job->tmp_name);
    free(job);
}

void snapshot_progress(struct snapshot_job *job, const char *phase, uint64_t done, uint64_t total)
{
    if (job->watcher.progress)
        job->watcher.progress(job->watcher.arg, phase, done, total);
}

void snapshot_end_consume(struct snapshot_job *job, json_t *record)
{
    struct vm *vm = job->vm;

    vm->snapshot = NULL;
    snapshot_pending_remove(vm);
    if (record)
        vm_tell(vm, EVENT_SNAPSHOT, NULL, "snapshot %s: the guest stood still for %.1f ms", job->record.name,
                (double)job->record.pause_us / 1000.0);
    else
        vm_tell(vm, EVENT_SNAPSHOT, NULL, "no snapshot %s: %s", job->record.name, job->err.text);
    if (job->watcher.ended)
        job->watcher.ended(job->watcher.arg, record, &job->err);
    json_decref(record);
    snapshot_job_free(job);
    ram_guest_runs(vm); /* a pager that was done meanwhile had to wait for us */
}

static void released(struct vm *vm, const char *why)
{
    if (why)
        vm_tell(vm, EVENT_SNAPSHOT, NULL, "after a snapshot the guest could not be let run: %s", why);
}

void snapshot_release(struct snapshot_job *job)
{
    if (!job->held)
        return;
    job->held = false;
    if (job->migrating && !job->saved && job->vm->qemu.qmp_ready)
        (void)qmp_client_call(job->vm->qemu.qmp, "migrate_cancel", NULL, 0, NULL, NULL);
    if (job->was_running && job->vm->state == STATE_RUNNING && job->vm->qemu.qmp_ready)
        snapshot_run_on(job->vm, released);
}

void snapshot_finish_failure(struct snapshot_job *job)
{
    snapshot_disks_undo(job);
    snapshot_folder_remove(job);
    if (job->vm->no_room && job->vm->qemu.qmp_ready && job->was_running) /* it was us who took the room */
        snapshot_run_on(job->vm, released);
    snapshot_end_consume(job, NULL);
}

void snapshot_fail(struct snapshot_job *job)
{
    if (job->step == SNAPSHOT_ENDING)
        return;
    job->step = SNAPSHOT_ENDING;
    ev_timer_stop(loop_ev(job->vm->loop), &job->deadline);
    if (job->save)
        save_stop(job->save); /* whoever waits for its write goes on */
    snapshot_release(job);
    if (!job->task && (!job->save || save_done(job->save)))
        snapshot_finish_failure(job);
}

void snapshot_show_copy(struct snapshot_job *job)
{
    struct save_progress p = save_progress(job->save);

    snapshot_progress(job, "memory", p.done * IMAGE_PAGE, p.total * IMAGE_PAGE);
}

static int run_publish(void *arg, struct err *err)
{
    struct snapshot_job *job = arg;
    int r = snapshot_disks_link(job, err);

    return r < 0 ? r : snapshot_folder_publish(job, err);
}

static void on_published(void *arg, int r, const struct err *err)
{
    struct snapshot_job *job = arg;
    json_t *json = NULL;

    if (job->step == SNAPSHOT_ENDING && r < 0) {
        snapshot_finish_failure(job); /* called off before; what is published by now stays */
        return;
    }
    if (r < 0) {
        job->err = *err;
        err_from(&job->err, r, "finishing the snapshot");
        snapshot_fail(job);
        return;
    }
    job->step = SNAPSHOT_ENDING;
    if (snapshot_to_json(&job->record, &json) < 0)
        json = json_object(); /* it is whole, and only can't be told for want of memory */
    snapshot_end_consume(job, json);
}

void snapshot_copied(struct snapshot_job *job)
{
    int r;

    if (save_error(job->save, &job->err) < 0) {
        snapshot_fail(job);
        return;
    }
    snapshot_release(job); /* a cold one */
    if (!job->live)
        job->record.pause_us = clock_mono_us() - job->stopped_us;
    snapshot_progress(job, "finishing", 0, 0);
    r = task_start(job->vm->loop, &(struct task_work){ run_publish, on_published, job }, &job->task);
    if (r < 0) {
        err_set_errno(&job->err, -r, "no-thread", "can't start a thread to finish the snapshot");
        snapshot_fail(job);
    }
}
