#include "shim/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "proto/interfaces.h"
#include "proto/launch.h"
#include "shim/health.h"
#include "shim/own_disks.h"
#include "shim/ram.h"
#include "shim/restore.h"
#include "shim/snapshot.h"

static int open_folders(struct vm *vm, struct err *err)
{
    const struct {
        const char *path;
        int *fd;
    } folders[] = { { vm->plan.run_dir, &vm->run_fd }, { vm->plan.state_dir, &vm->state_fd }, { vm->plan.log_dir, &vm->log_fd } };

    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        *folders[i].fd = dir_open(AT_FDCWD, folders[i].path);
        if (*folders[i].fd < 0)
            return err_set_errno(err, -*folders[i].fd, "no-folder", "can't open the folder %s", folders[i].path);
    }
    return 0;
}

static int lock_with_retry(int dirfd, const char *name)
{
    int fd = lock_take(dirfd, name);

    /* Somebody's lock_is_held() may have had it for an instant. */
    for (int tries = 0; fd == -EWOULDBLOCK && tries < 20; tries++) {
        usleep(1000);
        fd = lock_take(dirfd, name);
    }
    return fd;
}

static int take_locks(struct vm *vm, bool adopt, struct err *err)
{
    vm->shim_lock = lock_with_retry(vm->run_fd, FILE_SHIM_LOCK);
    if (vm->shim_lock == -EWOULDBLOCK)
        return err_set(err, EBUSY, "supervised", "another shim supervises %s already", vm->plan.name);
    if (vm->shim_lock < 0)
        return err_set_errno(err, -vm->shim_lock, "no-lock", "can't lock %s/%s", vm->plan.run_dir, FILE_SHIM_LOCK);
    FAILPOINT("shim.after-lock");
    if (adopt)
        return 0;
    vm->vm_lock = lock_with_retry(vm->run_fd, FILE_VM_LOCK);
    if (vm->vm_lock == -EWOULDBLOCK)
        return err_set(err, EBUSY, "alive", "a QEMU of %s is still alive without a shim; adopt it instead of starting a second one",
                       vm->plan.name);
    if (vm->vm_lock < 0)
        return err_set_errno(err, -vm->vm_lock, "no-lock", "can't lock %s/%s", vm->plan.run_dir, FILE_VM_LOCK);
    return 0;
}

int vm_write_plan(struct vm *vm, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = plan_to_json(&vm->plan, &json);

    if (r >= 0)
        r = json_format(json, &text, &len);
    if (r >= 0)
        r = file_write(vm->run_fd, FILE_PLAN, text, len, 0640, FILE_ATOMIC);
    return r < 0 ? err_set_errno(err, -r, "no-plan", "can't write %s/%s", vm->plan.run_dir, FILE_PLAN) : 0;
}

static struct vm *vm_alloc(struct loop *l)
{
    struct vm *vm = calloc(1, sizeof(*vm));

    if (!vm)
        return NULL;
    vm->loop = l;
    vm->run_fd = vm->state_fd = vm->log_fd = vm->shim_lock = vm->vm_lock = -1;
    vm->qemu.ref = vm->prepare.child = PIDREF_NONE;
    vm->since = clock_real_us();
    return vm;
}

int vm_new_take(struct loop *l, struct plan *plan, bool adopt, struct vm **ret_vm, struct err *err)
{
    auto_vm struct vm *vm = vm_alloc(l);
    int r;

    if (!vm)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    vm->plan = *plan;
    memset(plan, 0, sizeof(*plan));
    vm->backoff = (struct backoff){
        .delay_ms = vm->plan.restart.delay_ms,
        .max_delay_ms = vm->plan.restart.max_delay_ms,
        .max_attempts = vm->plan.restart.max_attempts,
    };
    r = plan_digest(&vm->plan, vm->digest);
    if (r < 0 || (r = boot_id_read(vm->boot_id)) < 0 || (r = proc_start_time(getpid(), &vm->shim_start_time)) < 0)
        return err_set_errno(err, -r, "no-identity", "can't tell who I am");
    r = open_folders(vm, err);
    if (r < 0 || (r = take_locks(vm, adopt, err)) < 0)
        return r;
    r = vm_read_predecessor(vm, err);
    if (r < 0 || (r = vm_write_plan(vm, err)) < 0)
        return r;
    FAILPOINT("shim.after-run-folder");
    r = tree_start(&vm->tree, l, vm_tree_emptied, vm);
    if (r < 0)
        return err_set_errno(err, -r, "no-subreaper", "can't become the reaper of the VM's processes");
    r = vm_serve(vm, err);
    if (r < 0)
        return r;
    FAILPOINT("shim.after-listen");
    if (!adopt)
        vm_write_status(vm);
    *ret_vm = steal_ptr(&vm);
    return 0;
}

void vm_tell(struct vm *vm, enum event_type type, json_t *data_consume, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX];
    va_list args;

    if (vm->finished) {
        json_decref(data_consume);
        return;
    }
    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    event_ring_add_consume(&vm->events, type, vm->incarnation, text, data_consume);
    /* First the number is on record, then it is told: a replacement of this shim never gives it to another event. */
    vm_write_status(vm);
    vm_api_event(vm);
}

static void unlink_sockets(struct vm *vm)
{
    static const char *const names[] = { FILE_SHIM_SOCKET, FILE_QMP_SOCKET, FILE_CONSOLE_SOCKET, FILE_AGENT_SOCKET };

    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        (void)unlinkat(vm->run_fd, names[i], 0);
}

void vm_abandon(struct vm *vm)
{
    unlink_sockets(vm);
    (void)unlinkat(vm->run_fd, FILE_STATUS, 0);
    (void)unlinkat(vm->run_fd, FILE_PLAN, 0);
    (void)unlinkat(vm->run_fd, FILE_PLAN_NEXT, 0);
    (void)unlinkat(vm->run_fd, FILE_MEMORY_STATE, 0);
    (void)unlinkat(vm->run_fd, FILE_RESTORE_DISKS, 0);
}

static void on_linger(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, linger);

    loop_stop(vm->loop, 0);
}

/* A VM that was made for one purpose, with all its folders in one. */
static void remove_ephemeral(const struct vm *vm)
{
    const char *slash = strrchr(vm->plan.run_dir, '/');
    auto_free char *parent = strndup(vm->plan.run_dir, (size_t)(slash - vm->plan.run_dir));
    auto_fd int dir = parent ? dir_open(AT_FDCWD, parent) : -1;

    if (dir >= 0)
        (void)dir_remove_tree(dir, slash + 1);
}

/* The exit record is on disk, so the run folder's records have done their duty. Watchers that read slowly get a moment. */
void vm_finish(struct vm *vm)
{
    bool waiting = vm_api_unsent(vm);

    /* Events came behind the exit on record (a stop while waiting to be restarted): the next start goes on from their numbers. */
    if (vm->last_exit.schema && vm->last_exit.event_seq + 1 < vm->events.next_seq) {
        vm->last_exit.event_seq = vm->events.next_seq - 1;
        vm->last_exit.final = true;
        vm_write_exit(vm, &vm->last_exit);
    }
    vm->finished = true;
    vm_abandon(vm);
    if (vm->plan.restore.ephemeral)
        remove_ephemeral(vm);
    FAILPOINT("shim.before-leaving");
    ev_timer_init(&vm->linger, on_linger, waiting ? 0.5 : 0.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->linger);
}

static void on_retry(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, retry);

    vm->restarts++;
    vm->incarnation++;
    vm_handle(vm, VM_GO, NULL);
}

void vm_retry_later(struct vm *vm)
{
    ev_timer_init(&vm->retry, on_retry, (double)vm->retry_ms / 1000.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->retry);
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    if (vm->loop) {
        ev_timer_stop(loop_ev(vm->loop), &vm->retry);
        ev_timer_stop(loop_ev(vm->loop), &vm->linger);
        ev_timer_stop(loop_ev(vm->loop), &vm->qemu.last_words);
        vm_ladder_end(vm);
    }
    vm_update_clear(vm);
    snapshot_abort(vm);
    restore_end(vm);
    own_disks_end(vm);
    ram_end(vm);
    health_clear(vm);
    tree_stop(&vm->tree);
    pidwatch_stop(&vm->qemu.watch);
    pidwatch_stop(&vm->prepare.watch);
    pidref_done(&vm->qemu.ref);
    pidref_done(&vm->prepare.child);
    qmp_client_free(vm->qemu.qmp);
    vm_console_clear(vm);
    vm_logs_clear(vm);
    vm_api_clear(vm);
    event_ring_clear(&vm->events);
    exit_clear(&vm->last_exit);
    oom_watch_done(&vm->qemu.oom);
    free(vm->qemu.shutdown_reason);
    free(vm->qemu.doom);
    free(vm->qemu.version);
    free(vm->detail);
    plan_clear(&vm->plan);
    fd_close(vm->run_fd);
    fd_close(vm->state_fd);
    fd_close(vm->log_fd);
    fd_close(vm->vm_lock);
    fd_close(vm->shim_lock);
    free(vm);
}
