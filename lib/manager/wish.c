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
    bool keep;
    struct wanted before; /* unless `keep`: what is to come back when the write fails; seen and seen_boot aren't in it */
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

/* Leaves in *from what was in *to. */
static void exchange(struct wanted *to, struct wanted *from)
{
    struct wanted was = *to;

    to->wish = from->wish;
    to->from = from->from;
    to->force = from->force;
    to->timeout_ms = from->timeout_ms;
    to->deleting = from->deleting;
    to->purge = from->purge;
    to->by_spec = from->by_spec;
    to->restore = from->restore;
    was.seen = 0;
    was.seen_boot = NULL;
    *from = was;
}

/* `before` NULL: what is in memory stays. */
static void finished(struct vm *vm, uint32_t write, int r, struct wanted *before)
{
    vm->write_done = write;
    if (r >= 0) {
        vm->write_ok = write;
        vm->unsaved = false;
    } else {
        log_vm_error(vm->name, "can't write %s/%s/%s/%s: %s", vm->manager->dirs.state, FOLDER_VMS, vm->name, FILE_WANTED, strerror(-r));
        if (!before)
            vm->unsaved = true;
        else if (write == vm->write_issued)
            exchange(&vm->wanted, before);
    }
    vm_changed(vm);
}

static void done(struct job *job)
{
    struct wish_job *w = container_of(job, struct wish_job, job);

    if (!w->vm->gone_from_registry)
        finished(w->vm, w->write, w->r, w->keep ? NULL : &w->before);
    vm_unref(w->vm);
    wanted_clear(&w->before);
    free(w->text);
    free(w);
}

/* `before` is taken on success, as in the two functions below; NULL: the wish stays in force whatever becomes of the write. */
static int queue(struct vm *vm, uint32_t write, struct wanted *before)
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
    w->keep = !before;
    if (before) {
        w->before = *before;
        *before = (struct wanted){ 0 };
    }
    worker_add(vm->manager->writer, &w->job);
    return 0;
}

static uint32_t save(struct vm *vm, struct wanted *before)
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
    auto_wanted struct wanted wanted = {
        .wish = change->wish,
        .from = change->from,
        .force = change->force,
        .timeout_ms = change->timeout_ms,
        .deleting = change->deleting,
        .purge = change->purge,
        .by_spec = change->by_spec,
    };

    if (wanted_restore_set(&wanted.restore, change->restore) < 0) {
        vm->write_done = ++vm->write_issued;
        vm_changed(vm);
        return vm->write_issued;
    }
    exchange(&vm->wanted, &wanted);
    return save(vm, change->keep ? NULL : &wanted);
}

void wish_begin_at(struct vm *vm, uint64_t from)
{
    struct wanted_restore restore = vm->wanted.restore;

    restore.from = from;
    wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = from, .restore = restore.vm ? &restore : NULL, .keep = true });
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
    save(vm, NULL);
}

bool wish_restore_is_due(const struct vm *vm)
{
    return vm->wanted.restore.vm && vm->wanted.wish == WANTED_RUNNING && vm->incarnation < vm->wanted.restore.from;
}

bool wish_restore_is_open(const struct vm *vm)
{
    return vm->wanted.restore.vm && vm->wanted.wish == WANTED_RUNNING && vm->incarnation == vm->wanted.restore.from;
}

void wish_note_state(struct vm *vm, uint64_t incarnation, enum vm_state state)
{
    bool ran = state == STATE_RUNNING || state == STATE_PAUSED || state == STATE_BACKOFF;

    /* A later life is one that the shim began by itself after this one: it does so only when the guest had run. */
    if (!vm->wanted.restore.vm || incarnation < vm->wanted.restore.from || (incarnation == vm->wanted.restore.from && !ran))
        return;
    wanted_restore_clear(&vm->wanted.restore);
    save(vm, NULL);
}

void wish_adopt(struct vm *vm, uint64_t incarnation)
{
    if (vm->has_wanted)
        return;
    wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = incarnation, .keep = true });
}

void wish_default(struct vm *vm)
{
    /* Stopped because the spec said so, which it doesn't any more. */
    if (vm->has_wanted && !(vm->wanted.by_spec && vm->wanted.wish == WANTED_STOPPED && vm->has_spec && vm->enabled && !vm->spec_second &&
                            !vm->unclear && !vm->wanted.deleting))
        return;
    if (vm->unclear)
        wish_change(vm, &(struct wish_change){ .wish = WANTED_STOPPED, .keep = true });
    else if (vm->has_spec && vm->enabled)
        wish_change(vm, &(struct wish_change){ .wish = WANTED_RUNNING, .from = vm->incarnation + 1, .keep = true });
}
