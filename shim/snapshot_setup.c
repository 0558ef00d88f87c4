/* What a snapshot needs before it begins: whether it can be taken at all, what it is of, and the copier of memory. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/parse.h"
#include "lib/qemu/hardware.h"
#include "shim/ram.h"
#include "shim/snapshot_job.h"
#include "shim/vm.h"

enum { MIB = 1024 * 1024, RESERVE = 16 * MIB };

static int open_source_index(struct snapshot_job *job, struct err *err)
{
    const struct ram_source *source = &job->vm->ram->source;
    int r = ram_source_read_index(job->vm, source->state.folder, true, &job->source_index, err);

    if (r < 0)
        return r;
    job->n_missing = (size_t)((memory_index_pages(job->source_index) + 63) / 64);
    job->missing = malloc(job->n_missing * sizeof(*job->missing));
    return job->missing ? 0 : -ENOMEM;
}

static int open_mapped(struct snapshot_job *job, struct err *err)
{
    char path[64];

    (void)snprintf(path, sizeof(path), "/proc/%d/mem", (int)job->vm->qemu.ref.pid);
    job->mem_fd = open(path, O_RDONLY | O_CLOEXEC);
    return job->mem_fd < 0 ? err_set_errno(err, errno, "no-memory", "can't read QEMU's memory") : 0;
}

/* What memory.raw may grow to, bytes. */
static uint64_t memory_needed(const struct vm *vm)
{
    const struct ram_source *source = &vm->ram->source;
    struct stat st;

    if (source->index) /* the image's, and what the guest has beside it */
        return memory_index_present(source->index) * IMAGE_PAGE;
    return vm->ram->memfd >= 0 && fstat(vm->ram->memfd, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

/* The guest's own disks are often on this file system, and QEMU stops a guest whose write finds no room: so it is never filled up. */
static int check_room(const struct snapshot_job *job, struct err *err)
{
    uint64_t needed = memory_needed(job->vm) + RESERVE, free;
    char needed_text[SIZE_TEXT_MAX], free_text[SIZE_TEXT_MAX];
    struct statvfs fs;

    if (fstatvfs(job->dir, &fs) < 0)
        return 0; /* writing will tell */
    free = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (free >= needed)
        return 0;
    return err_set(err, ENOSPC, "no-space", "no space for it: %s may need up to %s, and %s are free there", job->folder,
                   format_size((needed + MIB - 1) / MIB * MIB, needed_text), format_size(free / MIB * MIB, free_text));
}

int snapshot_setup(struct snapshot_job *job, struct err *err)
{
    struct ram *ram = job->vm->ram;
    struct save_config config = {
        .uffd = ram->uffd,
        .addr = ram->addr,
        .len = job->vm->plan.ram.size,
        .ram_fd = ram->memfd,
        .mem_fd = -1,
        .source_fd = -1,
        .out_fd = job->memory_fd,
        .notify = snapshot_save_event,
        .arg = job,
    };
    int r = check_room(job, err);

    if (r >= 0)
        r = memory_index_new(job->vm->plan.ram.size, &job->index);

    if (r >= 0 && job->live)
        r = ram_faults(job->vm, &config.faults);
    if (r >= 0 && ram_is_lazy(job->vm)) {
        r = open_source_index(job, err);
        config.from_source = job->missing;
        config.source_fd = ram->source.image;
        config.source_index = job->source_index;
    } else if (r >= 0 && ram_is_mapped(job->vm)) {
        r = open_mapped(job, err);
        config.ram_fd = -1;
        config.mem_fd = job->mem_fd;
    }
    config.index = job->index;
    if (r < 0)
        return err_from(err, r, "preparing to copy the guest's memory");
    return save_new(&config, &job->save, err);
}

int snapshot_describe(struct snapshot_job *job, const struct snapshot_request *request)
{
    const struct vm *vm = job->vm;
    struct snapshot *record = &job->record;

    record->schema = SNAPSHOT_SCHEMA;
    record->created = clock_real_us();
    record->incarnation = vm->incarnation;
    record->live = request->live;
    record->ram_size = vm->plan.ram.size;
    record->page_size = IMAGE_PAGE;
    if (str_set(&job->folder, request->folder) < 0 || str_set(&record->name, request->name) < 0 ||
        str_set(&record->vm, vm->plan.name) < 0 || str_set(&record->spec, request->spec) < 0 || str_set(&record->digest, vm->digest) < 0)
        return -ENOMEM;
    return hardware_from_plan(&vm->plan, vm->qemu.version, &record->hardware);
}

/* What can't be done, and what can instead. */
int snapshot_check(const struct vm *vm, const struct snapshot_request *request, struct err *err)
{
    if (vm->snapshot)
        return err_set(err, EBUSY, "busy", "a snapshot of %s is being made already", vm->plan.name);
    if (vm->state != STATE_RUNNING && vm->state != STATE_PAUSED)
        return err_set(err, EPERM, "not-running", "%s doesn't run: a snapshot is of a running VM", vm->plan.name);
    if (!vm->qemu.qmp_ready || !vm->ram || !vm->qemu.version)
        return err_set(err, EAGAIN, "no-monitor", "QEMU's monitor isn't there: try again in a moment");
    if (!vm->plan.ram.shared || vm->ram->memfd < 0)
        return err_set(err, ENOTSUP, "private-memory", "the memory of %s is its QEMU's alone, and can't be saved", vm->plan.name);
    if (ram_is_mapped(vm) && request->live)
        return err_set(err, ENOTSUP, "mapped",
                       "%s was restored with its memory mapped from a snapshot, which can't be copied while it runs: use --stop",
                       vm->plan.name);
    if (request->live && (vm->ram->uffd < 0 || vm->ram->len == 0))
        return err_set(err, ENOTSUP, "no-userfaultfd",
                       "this kernel, or the QEMU of %s, has no userfaultfd that could watch its memory: use --stop", vm->plan.name);
    if (request->live && !ram_can_protect(vm))
        return err_set(err, ENOTSUP, "no-write-protect", "this kernel can't write-protect shared memory (Linux 5.19 can): use --stop");
    if (request->folder[0] != '/')
        return err_set(err, EINVAL, "bad-folder", "%s is no absolute path", request->folder);
    return 0;
}
