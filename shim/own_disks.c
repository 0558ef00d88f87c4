#include "shim/own_disks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/base/strv.h"
#include "lib/disk/image.h"
#include "lib/disk/own_disks.h"
#include "shim/layers.h"
#include "shim/leftovers.h"
#include "shim/task.h"
#include "shim/vm.h"

/* A qemu-img that a dead shim had begun ends by itself within moments. */
enum { UNUSED_WAIT_MS = 5000, UNUSED_POLL_MS = 20 };

struct own_disks {
    struct vm *vm;
    struct task *task;
    atomic_bool hurry;
    struct disks record;
    bool record_changed;
    struct plan_step *grow;
    size_t n_grow;
};

static void free_steps(struct plan_step *steps, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct strv argv = { .items = steps[i].argv };

        while (argv.items && argv.items[argv.n])
            argv.n++;
        strv_clear(&argv);
        free(steps[i].what);
    }
    free(steps);
}

/* ---- in use ---- */

static int check_unused(const struct own_disks *own, const char *name, const char *path, enum disk_use use, struct err *err)
{
    const struct timespec pause = { .tv_nsec = UNUSED_POLL_MS * 1000000L };

    for (int waited = 0; waited < UNUSED_WAIT_MS && !atomic_load(&own->hurry); waited += UNUSED_POLL_MS) {
        auto_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

        if (fd < 0 || image_in_use(fd, use) <= 0)
            break;
        (void)nanosleep(&pause, NULL);
    }
    return image_check_unused(name, path, use, err);
}

/* ---- fresh ones ---- */

/* May the name go? A file that others consist of has more names (shim/layers_keep.c), unless none could be made; then it has lost its write
 * permission. */
static int check_removable(const struct own_disks *own, const struct plan_disk *disk, struct err *err)
{
    struct stat st;

    if (lstat(disk->path, &st) < 0)
        return errno == ENOENT ? 0 : err_set_errno(err, errno, "bad-disk", "disk %s: can't look at %s", disk->name, disk->path);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "bad-disk", "disk %s: %s is no file of ours, so no new one is put in its place: move it away",
                       disk->name, disk->path);
    if (st.st_nlink == 1 && (st.st_mode & 0222) == 0)
        return err_set(err, EBUSY, "frozen",
                       "disk %s: a snapshot consists of %s, and has no other name for it: delete that snapshot and then that file, or say "
                       "\"persistent\": true",
                       disk->name, disk->path);
    return check_unused(own, disk->name, disk->path, st.st_nlink > 1 ? IMAGE_WRITER : IMAGE_ANY, err);
}

static int look_at_fresh(struct own_disks *own, const struct plan_disk *disk, struct err *err)
{
    struct snapshot_layer top = own_disk_top(&own->record, disk->path, disk->format);
    int r = check_removable(own, disk, err);

    if (r >= 0 && top.path != disk->path)
        r = check_unused(own, disk->name, top.path, IMAGE_ANY, err);
    return r;
}

/* The layers go by the next sweep, since the record doesn't name them any more. */
static int remove_fresh(const struct plan_disk *disk, struct err *err)
{
    if (unlink(disk->path) < 0 && errno != ENOENT)
        return err_set_errno(err, errno, "bad-disk", "disk %s: can't remove %s to make it anew", disk->name, disk->path);
    return 0;
}

/* ---- those that stay ---- */

static int add_grow(struct own_disks *own, const struct plan_disk *disk, const struct snapshot_layer *top, uint64_t now)
{
    char from[SIZE_TEXT_MAX], to[SIZE_TEXT_MAX];
    struct plan_step *steps = reallocarray(own->grow, own->n_grow + 1, sizeof(*steps)), *step;
    auto_strv struct strv argv = { 0 };

    if (!steps)
        return -ENOMEM;
    own->grow = steps;
    step = &steps[own->n_grow];
    *step = (struct plan_step){ 0 };
    strv_push(&argv, disk->qemu_img);
    strv_push(&argv, "resize");
    strv_push(&argv, "-q");
    strv_push(&argv, "-f");
    strv_push(&argv, top->format);
    strv_push(&argv, "--");
    strv_push(&argv, top->path);
    strv_push(&argv, format_size(disk->size, to));
    if (argv.failed || str_format(&step->what, "grow disk %s from %s to %s", disk->name, format_size(now, from), to) < 0)
        return -ENOMEM;
    step->argv = argv.items;
    argv = (struct strv){ 0 };
    own->n_grow++;
    return 0;
}

static int look_at_kept(struct own_disks *own, const struct plan_disk *disk, struct err *err)
{
    struct snapshot_layer top = own_disk_top(&own->record, disk->path, disk->format);
    auto_fd int fd = open(top.path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    uint64_t now = 0;
    int r;

    if (fd < 0) /* it is to be made, or QEMU says why not */
        return 0;
    r = image_size(fd, top.format, &now);
    if (r < 0)
        return err_set_errno(err, -r, "bad-disk", "disk %s: can't tell the size of %s, expected a %s image", disk->name, top.path,
                             top.format);
    r = own_disk_check_size(disk->name, now, disk->size, err);
    if (r >= 0 && now < disk->size)
        r = check_unused(own, disk->name, top.path, IMAGE_ANY, err);
    if (r >= 0 && now < disk->size)
        r = add_grow(own, disk, &top, now);
    return r;
}

/* ---- all ---- */

static int look(struct own_disks *own, struct err *err)
{
    const struct plan *plan = &own->vm->plan;
    int r = 0;

    for (size_t i = 0; i < plan->n_disks && r >= 0; i++)
        if (plan->disks[i].size)
            r = plan->disks[i].fresh ? look_at_fresh(own, &plan->disks[i], err) : look_at_kept(own, &plan->disks[i], err);
    /* A disk made of files is what its name says; what a restore had put in its place was for that restore. */
    for (size_t i = 0; i < plan->n_disks && r >= 0; i++)
        if (plan->disks[i].fresh || !plan->disks[i].size)
            own->record_changed |= disks_drop(&own->record, plan->disks[i].path);
    return r;
}

static int run(void *arg, struct err *err)
{
    struct own_disks *own = arg;
    const struct vm *vm = own->vm;
    int r = layers_load(vm->state_fd, &vm->plan, &own->record, err);

    if (r >= 0)
        r = look(own, err);
    if (r >= 0 && own->record_changed) /* first: a record of files that are gone would be a disk that can't be opened */
        r = layers_store(vm->state_fd, &own->record, err);
    FAILPOINT("shim.before-fresh");
    for (size_t i = 0; i < vm->plan.n_disks && r >= 0; i++)
        if (vm->plan.disks[i].fresh)
            r = remove_fresh(&vm->plan.disks[i], err);
    FAILPOINT("shim.after-fresh");
    if (r >= 0)
        leftovers_remove(vm->state_fd, &vm->plan);
    return r;
}

static void on_looked(void *arg, int r, const struct err *err)
{
    struct own_disks *own = arg;

    if (r < 0)
        vm_launch_failed(own->vm, NULL, err_is_set(err) ? err->text : strerror(-r));
    else
        vm_prepare_steps(own->vm);
}

static bool has_own(const struct plan *plan)
{
    for (size_t i = 0; i < plan->n_disks; i++)
        if (plan->disks[i].size)
            return true;
    return false;
}

/* Only an image of ours takes time to look at, so only for one does QEMU wait for a thread. */
void own_disks_prepare(struct vm *vm)
{
    struct err err = ERR_INIT;
    int r = -ENOMEM;

    own_disks_end(vm); /* of an earlier try */
    vm->own_disks = calloc(1, sizeof(*vm->own_disks));
    if (!vm->own_disks) {
        vm_launch_failed(vm, NULL, strerror(-r));
        return;
    }
    vm->own_disks->vm = vm;
    if (!has_own(&vm->plan)) {
        r = run(vm->own_disks, &err);
        on_looked(vm->own_disks, r, &err);
        return;
    }
    r = task_start(vm->loop, &(struct task_work){ run, on_looked, vm->own_disks }, &vm->own_disks->task);
    if (r < 0)
        vm_launch_failed(vm, NULL, strerror(-r));
}

const struct plan_step *own_disks_steps(const struct vm *vm, size_t *ret_n)
{
    *ret_n = vm->own_disks ? vm->own_disks->n_grow : 0;
    return vm->own_disks ? vm->own_disks->grow : NULL;
}

void own_disks_end(struct vm *vm)
{
    struct own_disks *own = steal_ptr(&vm->own_disks);

    if (!own)
        return;
    atomic_store(&own->hurry, true);
    task_join(&own->task);
    disks_clear(&own->record);
    free_steps(own->grow, own->n_grow);
    free(own);
}
