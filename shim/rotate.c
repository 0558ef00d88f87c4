/* When the VM's logs are looked at, and what is told about them. A log's writer tells nobody that it writes, so the folder is watched:
 * one wakeup when a silent VM begins to talk, one a second while it talks, none while it is silent. The cutting itself waits for
 * the disk, so a thread does it, which lives no longer than that. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/thread.h"
#include "proto/launch.h"
#include "shim/log_cut.h"
#include "shim/logs.h"
#include "shim/vm.h"

enum {
    LOOK_MS = 1000,
    LOOKS_AFTER_FAILURE = 30, /* that pass before a cut that failed is tried again */
    STACK_SIZE = 128 * 1024,
};

static const char *const logs[] = { FILE_CONSOLE_LOG, FILE_QEMU_LOG, FILE_SHIM_LOG };

struct rotation {
    struct vm *vm;
    ev_io changed; /* inotify(7) on the folder; stopped while `look` runs */
    ev_timer look;
    ev_async done;
    pthread_t thread;
    bool cutting;            /* the thread's; what it uses of this struct is only read here until `done` */
    uint64_t max_size, keep; /* the plan's, as they were when it began */
    int result[ARRAY_LEN(logs)];
    unsigned wait; /* looks until a cut is tried again */
    off_t tried;   /* the console log's size when it was last tried whether it can grow */
    bool told_failed, told_full, told_gone, incapable;
};

static void *cut_all(void *arg)
{
    struct rotation *ro = arg;

    for (size_t i = 0; i < ARRAY_LEN(logs); i++)
        ro->result[i] = log_cut(ro->vm->log_fd, logs[i], ro->max_size, ro->keep);
    ev_async_send(loop_ev(ro->vm->loop), &ro->done);
    return NULL;
}

static void begin_cut(struct rotation *ro)
{
    ro->max_size = ro->vm->plan.logs.max_size;
    ro->keep = ro->vm->plan.logs.keep;
    ev_async_start(loop_ev(ro->vm->loop), &ro->done);
    ro->cutting = thread_start(STACK_SIZE, cut_all, ro, &ro->thread) == 0;
    if (!ro->cutting) {
        ev_async_stop(loop_ev(ro->vm->loop), &ro->done);
        ro->wait = LOOKS_AFTER_FAILURE;
    }
}

static void tell_result(struct rotation *ro, const char *name, int r)
{
    struct vm *vm = ro->vm;

    if (r == -EOPNOTSUPP || r == -ENOSYS) {
        if (!ro->incapable)
            vm_tell(vm, EVENT_LOG, NULL, "%s can't be rotated and goes on growing: the file system of %s can't free the head of a file",
                    name, vm->plan.log_dir);
        ro->incapable = true;
        return;
    }
    ro->wait = LOOKS_AFTER_FAILURE;
    if (!ro->told_failed)
        vm_tell(vm, EVENT_LOG, NULL, "%s/%s could not be rotated and goes on growing: %s", vm->plan.log_dir, name, strerror(-r));
    ro->told_failed = true;
}

/* Waits for the thread, if there is one. */
static void end_cut(struct rotation *ro, bool tell)
{
    bool cut = false, failed = false;

    if (!ro->cutting)
        return;
    (void)pthread_join(ro->thread, NULL);
    ro->cutting = false;
    ev_async_stop(loop_ev(ro->vm->loop), &ro->done);
    for (size_t i = 0; tell && i < ARRAY_LEN(logs); i++) {
        cut = cut || ro->result[i] > 0;
        failed = failed || ro->result[i] < 0;
        if (ro->result[i] < 0)
            tell_result(ro, logs[i], ro->result[i]);
    }
    if (cut && !failed && ro->told_failed) {
        ro->told_failed = false;
        vm_tell(ro->vm, EVENT_LOG, NULL, "the logs are rotated again");
    }
}

static void on_done(struct ev_loop *ev, ev_async *w, int revents) { end_cut(container_of(w, struct rotation, done), true); }

static bool folder_gone(const struct vm *vm)
{
    struct stat st;

    return fstat(vm->log_fd, &st) < 0 || st.st_nlink == 0;
}

/* QEMU's writes fail without a word and the guest goes on, so the room is looked at: what is left for all, and whether a block can be had
 * (a quota shows only so; the block is kept for the log's next lines). Only of a log that has changed: the try itself is a change that
 * wakes us, so a silent VM would keep us awake. */
static bool disk_full(struct rotation *ro)
{
    const struct vm *vm = ro->vm;
    auto_fd int fd = openat(vm->log_fd, FILE_CONSOLE_LOG, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct statvfs fs;
    struct stat st;

    if (fstatvfs(vm->log_fd, &fs) == 0 && fs.f_blocks > 0 && fs.f_bavail == 0)
        return true;
    if (fd < 0 || fstat(fd, &st) < 0)
        return false;
    if (st.st_size == ro->tried)
        return ro->told_full;
    ro->tried = st.st_size;
    if (fallocate(fd, FALLOC_FL_KEEP_SIZE, st.st_size, st.st_blksize) == 0)
        return false;
    return errno == ENOSPC || errno == EDQUOT;
}

static void look_at_disk(struct rotation *ro)
{
    struct vm *vm = ro->vm;
    bool full, gone = folder_gone(vm);

    if (gone && !ro->told_gone)
        vm_tell(vm, EVENT_LOG, NULL, "the log folder %s was removed; the logs of this boot are lost, the next boot makes it anew",
                vm->plan.log_dir);
    ro->told_gone = gone;
    if (gone)
        return;
    full = disk_full(ro);
    if (full && !ro->told_full)
        vm_tell(vm, EVENT_LOG, NULL, "no room left for the logs in %s: what the VM says is lost until there is; the guest goes on",
                vm->plan.log_dir);
    if (!full && ro->told_full)
        vm_tell(vm, EVENT_LOG, NULL, "there is room for the logs in %s again", vm->plan.log_dir);
    ro->told_full = full;
}

static bool too_big(const struct vm *vm)
{
    struct stat st;

    for (size_t i = 0; i < ARRAY_LEN(logs); i++)
        /* Its blocks, too: a log whose hole can't be collapsed has long offsets for ever. */
        if (fstatat(vm->log_fd, logs[i], &st, AT_SYMLINK_NOFOLLOW) == 0 && (uint64_t)st.st_size >= vm->plan.logs.max_size &&
            (uint64_t)st.st_blocks * 512 >= vm->plan.logs.max_size)
            return true;
    return false;
}

static void look(struct rotation *ro)
{
    look_at_disk(ro);
    if (ro->wait > 0)
        ro->wait--;
    else if (!ro->cutting && !ro->incapable && ro->vm->plan.logs.max_size > 0 && !ro->told_gone && too_big(ro->vm))
        begin_cut(ro);
}

static bool drain(int inotify)
{
    char events[4096];
    bool any = false;

    while (read(inotify, events, sizeof(events)) > 0)
        any = true;
    return any;
}

static void on_look(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct rotation *ro = container_of(w, struct rotation, look);
    bool talks = drain(ro->changed.fd);

    look(ro);
    /* What the look itself did to the folder is nobody's talk. */
    if (!ro->cutting && drain(ro->changed.fd) && log_file_size(ro->vm->log_fd, FILE_CONSOLE_LOG) != (uint64_t)ro->tried)
        talks = true;
    if (talks || ro->cutting)
        return;
    ev_timer_stop(ev, w);
    ev_io_start(ev, &ro->changed);
}

static void on_changed(struct ev_loop *ev, ev_io *w, int revents)
{
    struct rotation *ro = container_of(w, struct rotation, changed);

    ev_io_stop(ev, w);
    (void)drain(w->fd);
    ev_timer_again(ev, &ro->look);
}

/* A silent VM's log may be too big now, and nobody would come to look. */
void vm_logs_limits(struct vm *vm)
{
    struct rotation *ro = vm->rotation;

    if (!ro || ro->changed.fd < 0)
        return;
    ro->wait = 0;
    ev_io_stop(loop_ev(vm->loop), &ro->changed);
    ev_timer_again(loop_ev(vm->loop), &ro->look);
}

static void unwatch(struct rotation *ro)
{
    struct ev_loop *ev = loop_ev(ro->vm->loop);

    ev_io_stop(ev, &ro->changed);
    ev_timer_stop(ev, &ro->look);
    ro->changed.fd = fd_close(ro->changed.fd);
}

static int watch(struct rotation *ro)
{
    auto_fd int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    auto_free char *path = NULL;

    if (notify < 0)
        return -errno;
    if (str_format(&path, "/proc/self/fd/%d", ro->vm->log_fd) < 0)
        return -ENOMEM;
    if (inotify_add_watch(notify, path, IN_MODIFY | IN_DELETE | IN_ATTRIB | IN_DELETE_SELF) < 0)
        return -errno;
    ev_io_init(&ro->changed, on_changed, steal_fd(&notify), EV_READ);
    ev_io_start(loop_ev(ro->vm->loop), &ro->changed);
    return 0;
}

void vm_logs_start(struct vm *vm)
{
    struct rotation *ro = calloc(1, sizeof(*ro));
    int r = -ENOMEM;

    if (ro) {
        ro->vm = vm;
        ro->changed.fd = -1;
        ev_init(&ro->look, on_look);
        ro->look.repeat = LOOK_MS / 1000.0;
        ev_async_init(&ro->done, on_done);
        vm->rotation = ro;
        r = watch(ro);
    }
    for (size_t i = 0; i < ARRAY_LEN(logs); i++) {
        int e = log_cut_recover(vm->log_fd, logs[i], vm->plan.logs.keep);
        r = r < 0 ? r : e;
    }
    if (r < 0)
        vm_tell(vm, EVENT_LOG, NULL, "the logs in %s can't be watched, so they may grow: %s", vm->plan.log_dir, strerror(-r));
}

/* The folder again, where somebody removed it or put another in its place. */
static int reopen_folder(struct vm *vm)
{
    auto_fd int fd = -1, log = -1;
    int r;

    if (!folder_gone(vm))
        return 0;
    r = dir_make(vm->plan.log_dir, 0750, NULL);
    if (r < 0)
        return r;
    fd = dir_open(AT_FDCWD, vm->plan.log_dir);
    if (fd < 0)
        return fd;
    /* The same number, since others have it. */
    if (dup3(fd, vm->log_fd, O_CLOEXEC) < 0)
        return -errno;
    log = log_file_open(vm->log_fd, FILE_SHIM_LOG);
    if (log >= 0)
        (void)dup2(log, STDERR_FILENO);
    if (vm->rotation) {
        unwatch(vm->rotation);
        vm->rotation->told_gone = vm->rotation->told_full = vm->rotation->told_failed = false;
        return watch(vm->rotation);
    }
    return 0;
}

void vm_logs_begin_boot(struct vm *vm)
{
    int r;

    if (vm->rotation)
        end_cut(vm->rotation, true);
    r = reopen_folder(vm);
    if (r < 0) {
        vm_tell(vm, EVENT_LOG, NULL, "the log folder %s can't be made: %s", vm->plan.log_dir, strerror(-r));
        return;
    }
    r = logs_begin_boot(vm->log_fd, vm->incarnation - 1, vm->plan.logs.keep);
    if (r < 0)
        vm_tell(vm, EVENT_LOG, NULL, "the logs of the previous boot could not be put away: %s", strerror(-r));
}

void vm_logs_clear(struct vm *vm)
{
    struct rotation *ro = vm->rotation;

    if (!ro)
        return;
    end_cut(ro, false);
    unwatch(ro);
    free(ro);
    vm->rotation = NULL;
}
