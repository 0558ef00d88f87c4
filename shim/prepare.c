/* The plan's prepare steps, one child at a time, watched from the loop: making a disk may take long and the shim answers meanwhile. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/spawn.h"
#include "proto/launch.h"
#include "shim/logs.h"
#include "shim/own_disks.h"
#include "shim/privileges.h"
#include "shim/restore.h"
#include "shim/vm.h"

static void next_step(struct vm *vm);

/* The disks' own steps, then the plan's; NULL behind the last. */
static const struct plan_step *current_step(const struct vm *vm)
{
    size_t n, i = (size_t)vm->prepare.step;
    const struct plan_step *before = own_disks_steps(vm, &n);

    if (i < n)
        return &before[i];
    return i - n < vm->plan.n_prepare ? &vm->plan.prepare[i - n] : NULL;
}

static void undo_step(const struct plan_step *step)
{
    if (step->creates)
        (void)unlink(step->writes ? step->writes : step->creates);
}

/* What was made gets its name when it is whole, and so durably that a disk isn't made a second time. */
static int keep_step(const struct plan_step *step)
{
    auto_free char *folder = NULL;
    auto_fd int fd = -1;

    if (!step->writes)
        return 0;
    folder = strndup(step->creates, (size_t)(strrchr(step->creates, '/') - step->creates + 1));
    if (!folder)
        return -ENOMEM;
    fd = open(step->writes, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0 || rename(step->writes, step->creates) < 0)
        return -errno;
    fd_close(fd);
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int reap(struct vm *vm)
{
    struct pidref *child = &vm->prepare.child;
    siginfo_t info = { 0 };

    tree_forget(&vm->tree, child->pid);
    if (waitid(P_PIDFD, (id_t)child->fd, &info, WEXITED) < 0)
        return -errno;
    pidref_done(child);
    return info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
}

static void on_step_exited(struct pidwatch *w)
{
    struct vm *vm = w->arg;
    const struct plan_step *step = current_step(vm);
    auto_free char *tail = NULL, *text = NULL;
    int wstatus, r;

    pidwatch_stop(w);
    wstatus = reap(vm);
    FAILPOINT("shim.after-step");
    r = wstatus == 0 ? keep_step(step) : 0;
    if (r < 0) {
        undo_step(step);
        (void)str_format(&text, "could not %s: can't keep %s: %s", step->what, step->creates, strerror(-r));
        vm_launch_failed(vm, NULL, text ? text : step->what);
        return;
    }
    if (wstatus == 0) {
        vm->prepare.step++;
        next_step(vm);
        return;
    }
    undo_step(step);
    tail = log_file_tail(vm->log_fd, FILE_QEMU_LOG, vm->qemu.log_offset, 3);
    (void)str_format(&text, "could not %s: %s", step->what, tail ? tail : "the command failed without a word");
    vm_launch_failed(vm, &wstatus, text ? text : step->what);
}

static int run_step(struct vm *vm, const struct plan_step *step)
{
    auto_fd int log = log_file_open(vm->log_fd, FILE_QEMU_LOG);
    const struct spawn_fd fds[] = { { log, 1 }, { log, 2 } };
    pid_t pid;
    int r;

    if (log < 0)
        return log;
    r = spawn_child(
        &(struct spawn){
            .path = step->argv[0],
            .argv = step->argv,
            .env = vm->plan.qemu.env,
            .fds = fds,
            .n_fds = ARRAY_LEN(fds),
            .go_fd = -1,
            .new_group = true,
            .prepare = helper_child_prepare,
        },
        &pid);
    if (r < 0)
        return r;
    tree_expect(&vm->tree, pid);
    return pidref_open(pid, &vm->prepare.child);
}

/* A restored guest has the snapshot's disks. What is made of files is made all the same: the next boot, when the files may be others, needs
 * it. */
static bool is_replaced(const struct vm *vm, const char *path) { return restore_replaces(vm, path) && !plan_disk_is_made(&vm->plan, path); }

static void next_step(struct vm *vm)
{
    struct stat st;
    int r;

    for (;; vm->prepare.step++) {
        const struct plan_step *step = current_step(vm);

        if (!step) {
            vm_handle(vm, vm_is_restoring(vm) ? VM_RESTORE : VM_PREPARED, NULL);
            return;
        }
        if (step->creates && (is_replaced(vm, step->creates) || lstat(step->creates, &st) == 0))
            continue;
        if (step->writes) /* of a shim that was killed in the middle */
            (void)unlink(step->writes);
        vm_tell(vm, EVENT_PREPARE, NULL, "%s", step->what);
        FAILPOINT("shim.before-step");
        r = run_step(vm, step);
        if (r < 0) {
            auto_free char *text = NULL;

            (void)str_format(&text, "could not %s: %s", step->what, strerror(-r));
            vm_launch_failed(vm, NULL, text ? text : step->what);
            return;
        }
        pidwatch_start(&vm->prepare.watch, vm->loop, &vm->prepare.child, on_step_exited, vm);
        return;
    }
}

void vm_prepare(struct vm *vm)
{
    vm_logs_begin_boot(vm);
    vm->prepare.step = 0;
    vm->qemu.log_offset = log_file_size(vm->log_fd, FILE_QEMU_LOG);
    own_disks_end(vm); /* of an earlier boot */
    if (vm_is_restoring(vm))
        restore_prepare(vm);
    else
        own_disks_prepare(vm);
}

void vm_prepare_steps(struct vm *vm) { next_step(vm); }

void vm_prepare_cancel(struct vm *vm)
{
    restore_end(vm);
    if (vm->prepare.child.pid == 0) {
        own_disks_end(vm);
        return;
    }
    pidwatch_stop(&vm->prepare.watch);
    (void)kill(-vm->prepare.child.pid, SIGKILL);
    (void)pidref_kill(&vm->prepare.child, SIGKILL);
    (void)reap(vm);
    undo_step(current_step(vm));
    own_disks_end(vm);
}
