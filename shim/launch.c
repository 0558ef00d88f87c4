/* QEMU's start, in an order that survives a crash at every step (DESIGN §2, §6): monitor and console are bound here and inherited, the
 * child waits on a pipe until its pid and start time are on disk, end of file on that pipe means abort. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/socket.h"
#include "lib/base/spawn.h"
#include "proto/launch.h"
#include "proto/status.h"
#include "shim/command.h"
#include "shim/logs.h"
#include "shim/privileges.h"
#include "shim/ram.h"
#include "shim/vm.h"

enum { LISTEN_BACKLOG = 4 };

/* What QEMU inherits, by PLAN_FD_ number, and the pipe that lets it go. */
struct inheritance {
    int qmp, console, agent, log;
    int go_read, go_write;
};

static void inheritance_done(struct inheritance *i)
{
    fd_close(i->qmp);
    fd_close(i->console);
    fd_close(i->agent);
    fd_close(i->log);
    fd_close(i->go_read);
    fd_close(i->go_write);
}
#define auto_inheritance auto_cleanup(inheritance_done)

static int make_inheritance(const struct vm *vm, struct inheritance *i)
{
    int go[2];

    i->qmp = socket_listen(vm->run_fd, FILE_QMP_SOCKET, 0600, LISTEN_BACKLOG);
    if (i->qmp < 0)
        return i->qmp;
    i->console = socket_listen(vm->run_fd, FILE_CONSOLE_SOCKET, 0600, LISTEN_BACKLOG);
    if (i->console < 0)
        return i->console;
    i->log = log_file_open(vm->log_fd, FILE_QEMU_LOG);
    if (i->log < 0)
        return i->log;
    if (vm->plan.qemu.agent && (i->agent = socket_listen(vm->run_fd, FILE_AGENT_SOCKET, 0600, LISTEN_BACKLOG)) < 0)
        return i->agent;
    if (pipe2(go, O_CLOEXEC) < 0)
        return -errno;
    i->go_read = go[0];
    i->go_write = go[1];
    return 0;
}

static int fork_qemu(struct vm *vm, const struct inheritance *i, const struct command *command)
{
    const struct spawn_fd named[] = {
        { i->log, 1 },
        { i->log, 2 },
        { i->qmp, PLAN_FD_QMP },
        { i->console, PLAN_FD_CONSOLE },
        { vm->vm_lock, PLAN_FD_LOCK },
        { i->agent, PLAN_FD_AGENT },
    };
    struct spawn_fd fds[ARRAY_LEN(named) + RAM_FDS_MAX];
    auto_qemu_privileges struct qemu_privileges privileges = { 0 };
    struct spawn spawn;
    bool move = false;
    size_t n = 0;
    pid_t pid;
    int r = qemu_privileges_init(&privileges, &vm->plan, command);

    if (r < 0)
        return r;
    for (size_t k = 0; k < ARRAY_LEN(named); k++)
        if (named[k].source >= 0) /* what the plan has no use for is -1 */
            fds[n++] = named[k];
    n += ram_fds(vm->ram, fds + n);
    spawn = (struct spawn){
        .path = vm->plan.qemu.path,
        .argv = strv_argv(&command->argv),
        .env = strv_argv(&command->env),
        .fds = fds,
        .n_fds = n,
        .go_fd = i->go_read,
        .new_session = true, /* a SIGSTOPped QEMU outlives us too */
        .cgroup_fd = tree_cgroup_fd(&vm->tree),
        .prepare = qemu_child_prepare,
        .prepare_arg = &privileges,
    };
    r = spawn_child(&spawn, &pid);
    if (r < 0 && spawn.cgroup_fd > 0) { /* an older kernel, or a filter that knows no clone3(2): born here, moved then */
        spawn.cgroup_fd = 0;
        r = spawn_child(&spawn, &pid);
        move = true;
    }
    if (r < 0)
        return r;
    vm->qemu.child = true;
    tree_expect(&vm->tree, pid);
    r = move ? tree_add(&vm->tree, pid) : 0;
    if (r < 0)
        vm_tell(vm, EVENT_SHIM, NULL, "QEMU could not be put into its cgroup: %s", strerror(-r));
    r = pidref_open(pid, &vm->qemu.ref);
    if (r < 0)
        tree_forget(&vm->tree, pid); /* it gets no go, exits, and is reaped as a stray */
    return r;
}

/* After an adopted QEMU ended, vm.lock is free: nobody may start a second one before we do. */
static int ensure_vm_lock(struct vm *vm)
{
    if (vm->vm_lock < 0)
        vm->vm_lock = lock_take(vm->run_fd, FILE_VM_LOCK);
    return vm->vm_lock < 0 ? vm->vm_lock : 0;
}

static int launch(struct vm *vm, struct err *err)
{
    auto_inheritance struct inheritance i = { -1, -1, -1, -1, -1, -1 };
    auto_command struct command command = { 0 };
    int r = ensure_vm_lock(vm);

    if (r < 0 || (r = make_inheritance(vm, &i)) < 0 || (r = ram_begin(vm, err)) < 0 || (r = command_build(vm, &command, err)) < 0 ||
        (r = tree_make_cgroup(&vm->tree, vm->plan.name, vm->plan.run_dir)) < 0)
        return r;
    r = fork_qemu(vm, &i, &command);
    ram_forked(vm->ram);
    if (r < 0)
        return r;
    FAILPOINT("shim.after-fork");
    vm->qemu.started = clock_boottime_us();
    vm_qemu_watch(vm);
    vm_write_status(vm);
    FAILPOINT("shim.after-state-write");
    if (fd_write_all(i.go_write, "G", 1) < 0) /* the child died already; its exit tells */
        return 0;
    FAILPOINT("shim.after-go");
    /* The listening socket has room for one who waits, so the greeting comes the moment QEMU is up. */
    return vm_connect_qmp(vm);
}

void vm_launch(struct vm *vm)
{
    auto_free char *text = NULL;
    struct err err = ERR_INIT;
    int r;

    (void)unlinkat(vm->run_fd, FILE_PLAN_NEXT, 0); /* a new QEMU is just as the plan says */
    vm->qemu.ran = vm->qemu.gone = vm->qemu.qmp_ready = false;
    vm->stop.for_health = vm->stop.deadly = false;
    vm->stop.rung = 0;
    vm->qemu.shutdown_reason = (free(vm->qemu.shutdown_reason), NULL);
    vm->qemu.doom = (free(vm->qemu.doom), NULL);
    r = launch(vm, &err);
    if (r >= 0)
        return;
    if (err_is_set(&err))
        (void)str_set(&text, err.text);
    else
        (void)str_format(&text, "could not start %s: %s", vm->plan.qemu.path, strerror(-r));
    if (vm->qemu.ref.pid != 0) {
        /* It waits for a go that never comes, or has begun without a monitor: its end is handled like any other. */
        vm_tell(vm, EVENT_SHIM, NULL, "%s", text ? text : "could not start QEMU");
        (void)pidref_kill(&vm->qemu.ref, SIGKILL);
        return;
    }
    ram_end(vm);
    vm_launch_failed(vm, NULL, text ? text : "could not start QEMU");
}

static void on_qmp_ready(void *arg)
{
    struct vm *vm = arg;

    vm->qemu.qmp_ready = true;
    vm_continue(vm);
}

static void on_qmp_event(void *arg, const char *name, const json_t *data) { vm_handle_qmp_event(arg, name, data); }

static void on_qmp_closed(void *arg, int error)
{
    struct vm *vm = arg;

    vm->qemu.qmp_ready = false;
    vm->qemu.qmp_closed = true;
    if (vm->qemu.gone)
        ev_feed_event(loop_ev(vm->loop), &vm->qemu.last_words, EV_TIMER);
}

int vm_connect_qmp(struct vm *vm)
{
    auto_fd int fd = socket_connect(vm->run_fd, FILE_QMP_SOCKET);
    const struct qmp_client_config config = {
        .ready = on_qmp_ready,
        .event = on_qmp_event,
        .closed = on_qmp_closed,
        .arg = vm,
    };
    int r;

    if (fd < 0)
        return fd;
    qmp_client_free(steal_ptr(&vm->qemu.qmp));
    r = qmp_client_new_take(vm->loop, fd, &config, &vm->qemu.qmp);
    if (r < 0)
        return r;
    vm->qemu.qmp_closed = false;
    steal_fd(&fd);
    return 0;
}
