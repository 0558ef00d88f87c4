#include "lib/manager/wish.h"

#include <errno.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/records.h"
#include "lib/manager/state.h"

struct wish_job {
    struct job job;
    struct vm *vm;
    uint32_t write;
    struct wish_change before; /* what is to come back when the write fails; keep: nothing */
    char *text;
    size_t len;
    int r;
};

static void run(struct job *job)
{
    struct wish_job *w = container_of(job, struct wish_job, job);
    const struct record_dirs dirs = { w->vm->manager->run_vms_fd, w->vm->manager->state_vms_fd };
    auto_fd int fd = records_state_dir(&dirs, w->vm->name);

    w->r = fd < 0 ? fd : file_write(fd, FILE_WANTED, w->text, w->len, FILE_MODE, FILE_DURABLE);
    FAILPOINT("manager.after-wanted-write");
}

static void put_back(struct vm *vm, const struct wish_change *before)
{
    vm->wanted.wish = before->wish;
    vm->wanted.from = before->from;
    vm->wanted.force = before->force;
    vm->wanted.timeout_ms = before->timeout_ms;
    vm->wanted.deleting = before->deleting;
    vm->wanted.purge = before->purge;
}

static void finished(struct vm *vm, uint32_t write, int r, const struct wish_change *before)
{
    vm->write_done = write;
    if (r >= 0) {
        vm->write_ok = write;
        vm->unsaved = false;
    } else {
        log_vm_error(vm->name, "can't write %s/%s/%s/%s: %s", vm->manager->dirs.state, FOLDER_VMS, vm->name, FILE_WANTED, strerror(-r));
        if (before->keep)
            vm->unsaved = true;
        else if (write == vm->write_issued)
            put_back(vm, before);
    }
    vm_changed(vm);
}

static void done(struct job *job)
{
    struct wish_job *w = container_of(job, struct wish_job, job);

    if (!w->vm->gone_from_registry)
        finished(w->vm, w->write, w->r, &w->before);
    vm_unref(w->vm);
    free(w->text);
    free(w);
}

static int queue(struct vm *vm, uint32_t write, const struct wish_change *before)
{
    auto_json json_t *json = NULL;
    struct wish_job *w = calloc(1, sizeof(*w));
    int r;

    if (!w)
        return -ENOMEM;
    r = record_emit(&wanted_type, &vm->wanted, &json);
    if (r >= 0)
        r = json_format(json, &w->text, &w->len);
    if (r < 0) {
        free(w);
        return r;
    }
    w->job.run = run;
    w->job.done = done;
    w->vm = vm_ref(vm);
    w->write = write;
    w->before = *before;
    worker_add(vm->manager->writer, &w->job);
    return 0;
}

static uint32_t save(struct vm *vm, const struct wish_change *before)
{
    uint32_t write = ++vm->write_issued;
    int r;

    vm->has_wanted = true;
    r = queue(vm, write, before);
    if (r < 0)
        finished(vm, write, r, before);
    return write;
}

uint32_t wish_change(struct vm *vm, const struct wish_change *change)
{
    const struct wish_change before = {
        .wish = vm->wanted.wish,
        .from = vm->wanted.from,
        .force = vm->wanted.force,
        .timeout_ms = vm->wanted.timeout_ms,
        .deleting = vm->wanted.deleting,
        .purge = vm->wanted.purge,
        .keep = change->keep,
    };

    put_back(vm, change);
    return save(vm, &before);
}

int wish_written(const struct vm *vm, uint32_t write)
{
    if ((int32_t)(vm->write_ok - write) >= 0)
        return 1;
    return (int32_t)(vm->write_done - write) >= 0 ? -EIO : 0;
}

void wish_note_incarnation(struct vm *vm)
{
    const char *boot_id = vm->manager->boot_id;

    if (vm->incarnation == 0 || (vm->wanted.seen == vm->incarnation && streq_opt(vm->wanted.seen_boot, boot_id)))
        return;
    if (str_set(&vm->wanted.seen_boot, boot_id) < 0)
        return;
    vm->wanted.seen = vm->incarnation;
    save(vm, &(struct wish_change){ .keep = true });
}

void wish_adopt(struct vm *vm, uint64_t incarnation)
{
    if (vm->has_wanted)
        return;
    wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = incarnation, .keep = true });
}

void wish_default(struct vm *vm)
{
    if (vm->has_wanted)
        return;
    if (vm->unclear)
        wish_change(vm, &(struct wish_change){ .wish = WANTED_STOPPED, .keep = true });
    else if (vm->has_spec && vm->enabled)
        wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = vm->incarnation + 1, .keep = true });
}
