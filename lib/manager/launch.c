#include "lib/manager/launch.h"

#include <errno.h>
#include <sys/socket.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/gpu_move.h"
#include "lib/manager/gpus.h"
#include "lib/manager/hold.h"
#include "lib/manager/image_pull.h"
#include "lib/manager/link.h"
#include "lib/manager/plan_image.h"
#include "lib/manager/planner.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/scope.h"
#include "lib/manager/shim_spawn.h"
#include "lib/manager/state.h"
#include "lib/manager/vm_scope.h"
#include "lib/manager/wait.h"
#include "lib/manager/wish.h"

struct launch {
    struct vm *vm;
    bool adopt;
    bool stale;              /* the spec was edited since the plan was asked for */
    bool pulled;             /* its image was got; that it still isn't there is an error */
    struct image_pull *pull; /* the image is awaited */
    int sync_fd;             /* -1: not spawned yet */
    int plan_fd;             /* -1, or the plan while PCI devices are taken for it */
    pid_t shim;              /* by the kernel, when it says that it is ready; 0: not yet */
    struct limits limits;
    ev_io io;
    ev_timer deadline;
    char text[ERR_TEXT_MAX]; /* what the shim says instead of ready */
    size_t len;
};

static void launch_free(struct launch *l)
{
    struct ev_loop *ev = loop_ev(l->vm->manager->loop);

    ev_io_stop(ev, &l->io);
    ev_timer_stop(ev, &l->deadline);
    fd_close(l->sync_fd);
    fd_close(l->plan_fd);
    gpu_move_abandon(l->vm);
    image_pull_free(l->pull);
    vm_scope_cancel(l->vm);
    l->vm->launch = NULL;
    free(l);
}

/* The launch is over, and no VM came of it. Errors of the spec aren't tried again by themselves: they don't go away. */
static void failed(struct vm *vm, bool lasting, const char *text)
{
    if (vm->launch)
        launch_free(vm->launch);
    if (lasting)
        vm->gave_up = true;
    else
        reconcile_failure(vm);
    vm->launch_failures++;
    (void)str_set(&vm->launch_error, text);
    vm_set_view(vm, (enum vm_view)STATE_FAILED, "%s", text);
    vm_changed(vm);
}

/* The orphan is left as it is, and gets another chance after a while. */
static void adoption_failed(struct vm *vm, const char *text)
{
    uint64_t ms = ADOPT_RETRY_MS << (vm->adoptions < 6 ? vm->adoptions : 6);

    launch_free(vm->launch);
    if (vm->adoptions < UINT8_MAX)
        vm->adoptions++;
    vm_set_view(vm, VIEW_ORPHANED, "no shim could take it over: %s", text);
    vm_timer_start(vm, TIMER_LOOK, ms);
    vm_changed(vm);
}

static void hang_up(struct launch *l, const char *text)
{
    struct vm *vm = l->vm;
    struct manager *m = vm->manager;
    auto_free char *copy = strdup(text);
    char path[VM_PATH_MAX];

    if (l->adopt) {
        adoption_failed(vm, copy ? copy : "out of memory");
        return;
    }
    failed(vm, false, copy ? copy : "out of memory");
    /* It may be that somebody else has the VM, or that the shim needs a moment to let go of it. */
    if (lock_is_held(m->run_vms_fd, vm_path(vm, FILE_SHIM_LOCK, path)) > 0 ||
        lock_is_held(m->run_vms_fd, vm_path(vm, FILE_VM_LOCK, path)) > 0)
        link_look(vm);
}

static void say_go(struct vm *vm)
{
    static const char go = LAUNCH_GO;
    struct launch *l = vm->launch;
    ssize_t n;

    if (!l) /* called off meanwhile */
        return;
    FAILPOINT("manager.before-go");
    n = send(l->sync_fd, &go, 1, MSG_NOSIGNAL);
    if (n != 1) {
        hang_up(l, "its shim ended before it was told to go");
        return;
    }
    launch_free(l);
    vm->adoptions = 0;
    log_vm_debug(vm->name, "shim is ready, told to go");
    link_open(vm);
}

/* Into its scope, before anything runs in it. A shim for a QEMU that is in none yet waits for that: both are moved when it is found. */
static void on_ready(struct launch *l)
{
    struct vm *vm = l->vm;
    struct ev_loop *ev = loop_ev(vm->manager->loop);

    FAILPOINT("manager.after-ready");
    ev_timer_stop(ev, &l->deadline); /* a scope has one of its own */
    if (l->adopt && !scope_holds(vm->manager->scopes, vm->name, vm->qemu_pid))
        say_go(vm);
    else
        vm_scope_launch(vm, l->shim, &l->limits, say_go);
}

/* read(2), and who wrote it: SO_PASSCRED, unix(7). */
static ssize_t receive(struct launch *l, char *buf, size_t len)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = len };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
    ssize_t n = recvmsg(l->sync_fd, &msg, MSG_CMSG_CLOEXEC);

    for (struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL; c; c = CMSG_NXTHDR(&msg, c)) {
        struct ucred cred;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_CREDENTIALS)
            continue;
        memcpy(&cred, CMSG_DATA(c), sizeof(cred));
        l->shim = cred.pid;
    }
    return n;
}

static void ended_early(struct launch *l)
{
    while (l->len > 0 && (l->text[l->len - 1] == '\n' || l->text[l->len - 1] == ' '))
        l->len--;
    l->text[l->len] = '\0';
    for (char *p = l->text; *p; p++) {
        if (*p == '\n')
            *p = ' ';
    }
    hang_up(l, l->len > 0 ? l->text : "its shim ended before it was ready and didn't say why");
}

static void on_sync(struct ev_loop *ev, ev_io *io, int events)
{
    struct launch *l = container_of(io, struct launch, io);
    ssize_t n = receive(l, l->text + l->len, sizeof(l->text) - 1 - l->len);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || l->len + (size_t)n >= sizeof(l->text) - 1) {
        l->len += n > 0 ? (size_t)n : 0;
        ended_early(l);
        return;
    }
    l->len += (size_t)n;
    if (l->text[0] == LAUNCH_READY && l->len == 1)
        on_ready(l);
}

static void on_deadline(struct ev_loop *ev, ev_timer *timer, int events)
{
    hang_up(container_of(timer, struct launch, deadline), "its shim was not ready in time");
}

static int spawn(struct launch *l, int plan_fd)
{
    struct ev_loop *ev = loop_ev(l->vm->manager->loop);
    auto_fd int theirs = -1, log_folder = dir_open(l->vm->manager->log_fd, l->vm->name);
    int pair[2], r, on = 1;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    l->sync_fd = pair[0];
    theirs = pair[1];
    r = fd_set_nonblock(l->sync_fd, true);
    if (r < 0)
        return r;
    if (setsockopt(l->sync_fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
        return -errno;
    FAILPOINT("manager.before-spawn");
    r = shim_spawn(l->vm->manager, &(struct shim_spawn){
                                       .name = l->vm->name,
                                       .plan_fd = plan_fd,
                                       .sync_fd = theirs,
                                       .log_folder_fd = log_folder,
                                   });
    if (r < 0)
        return r;
    FAILPOINT("manager.after-spawn");
    ev_io_init(&l->io, on_sync, l->sync_fd, EV_READ);
    ev_io_start(ev, &l->io);
    ev_now_update(ev);
    ev_timer_init(&l->deadline, on_deadline, LAUNCH_READY_TIMEOUT_MS / 1000., 0.);
    ev_timer_start(ev, &l->deadline);
    return 0;
}

static void spawn_or_fail(struct launch *l, int plan_fd)
{
    struct vm *vm = l->vm;
    auto_free char *text = NULL;
    int r = spawn(l, plan_fd);

    if (r >= 0)
        return;
    (void)str_format(&text, "can't start %s: %s", vm->manager->shim_path, strerror(-r));
    failed(vm, false, text ? text : "can't start its shim");
}

/* Called off while it was prepared: nothing was begun that isn't put back. */
static void called_off(struct vm *vm)
{
    if (vm->launch)
        launch_free(vm->launch);
    vm_set_view(vm, vm_rest_view(vm), NULL);
    vm_changed(vm);
}

static void on_gpus(struct vm *vm, int r, const struct err *err)
{
    struct launch *l = vm->launch;
    auto_fd int plan_fd = steal_fd(&l->plan_fd);

    ev_timer_stop(loop_ev(vm->manager->loop), &l->deadline);
    if (vm->manager->stopping)
        launch_free(l);
    else if (vm->wanted.wish != WANTED_RUNNING || vm->manager->draining)
        called_off(vm);
    else if (r <
             0) /* a device on its way comes, and one of another VM's that is stopping may; what is wrong with a device doesn't go away */
        failed(vm, r != -EAGAIN, err->text);
    else
        spawn_or_fail(l, plan_fd);
}

static void on_gpus_late(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct vm *vm = container_of(timer, struct launch, deadline)->vm;
    char pending[128];
    auto_free char *text = NULL;

    gpus_pending(vm->manager->gpus, vm->name, pending, sizeof(pending));
    (void)str_format(&text, "%s in %d s, see dmesg; it is put back when it has", *pending ? pending : "its PCI devices were not to be had",
                     GPU_MOVE_DEADLINE_MS / 1000);
    failed(vm, true, text ? text : "out of memory");
}

/* The devices first: QEMU is started into what it finds. */
static int take_gpus(struct launch *l, struct plan_request *p)
{
    struct vm *vm = l->vm;
    struct ev_loop *ev = loop_ev(vm->manager->loop);
    size_t n = 0;

    while (p->gpus.devices && p->gpus.devices[n])
        n++;
    int r = gpu_move_take(vm, &p->gpus, on_gpus);
    if (r < 0)
        return r;
    l->plan_fd = steal_fd(&p->plan_fd);
    vm_set_view(vm, (enum vm_view)STATE_PREPARING, "taking %zu PCI devices from their drivers", n);
    ev_now_update(ev);
    ev_timer_init(&l->deadline, on_gpus_late, GPU_MOVE_DEADLINE_MS / 1000., 0.);
    ev_timer_start(ev, &l->deadline);
    return 0;
}

/* What somebody else on the host has may be free in a moment; another VM's end is noticed; a spec doesn't mend itself. */
static void plan_failed(struct plan_request *p)
{
    struct vm *vm = p->vm;

    vm->refused = p->refusal != REFUSAL_NONE;
    vm->blocked = p->refusal == REFUSAL_BY_VMS;
    if (p->refusal == REFUSAL_NONE && !p->restore.vm) /* else it may well be the snapshot */
        (void)str_set(&vm->spec_error, p->err.text);
    failed(vm, p->refusal != REFUSAL_BY_HOST, p->err.text);
}

static void plan(struct vm *vm);

static void on_pull_progress(void *arg, const char *text)
{
    struct vm *vm = arg;

    if (streq_opt(vm->reason, text))
        return;
    vm_set_view(vm, (enum vm_view)STATE_PREPARING, "%s", text);
    waiters_progress(vm, text);
}

static void on_pulled(void *arg, const struct err *err)
{
    struct vm *vm = arg;

    vm->launch->pull = NULL;
    vm->launch->pulled = true;
    if (err) {
        auto_free char *text = strdup(err->text);

        failed(vm, false, text ? text : "its image can't be had");
        return;
    }
    vm_set_view(vm, (enum vm_view)STATE_PREPARING, NULL);
    plan(vm);
}

/* Its image isn't in the store: the launch goes on when it is. */
static void pull(struct launch *l, const struct plan_request *p)
{
    const struct image_pull_request request = {
        .name = p->image_name, .version = p->image_version, .progress = on_pull_progress, .done = on_pulled, .arg = l->vm
    };

    if (image_pull_begin(l->vm->manager, &request, &l->pull) < 0)
        failed(l->vm, false, strerror(ENOMEM));
}

static void on_plan(struct plan_request *p)
{
    struct vm *vm = p->vm;
    struct launch *l = vm->launch;

    if (!l || vm->manager->stopping || vm->manager->draining || vm->gone_from_registry || vm->wanted.wish != WANTED_RUNNING) {
        if (l)
            called_off(vm);
        plan_request_free(p);
        return;
    }
    if (l->stale) {
        plan_request_free(p);
        plan(vm);
        return;
    }
    if (plan_awaits_image(p) && !l->pulled) {
        pull(l, p);
        plan_request_free(p);
        return;
    }
    if (p->r < 0) {
        plan_failed(p);
        plan_request_free(p);
        return;
    }
    vm->refused = vm->blocked = false;
    if (p->freed)
        hold_freed(vm->manager);
    FAILPOINT("manager.after-run-folder");
    (void)str_set(&vm->spec_error, NULL);
    memcpy(vm->next_digest, p->digest, sizeof(vm->next_digest));
    if (!p->restore.vm)
        plan_image_note(p);
    l->limits = p->scope_limits;
    if (!p->gpus.devices && !gpus_has(vm->manager->gpus, vm->name))
        spawn_or_fail(l, p->plan_fd);
    else if (take_gpus(l, p) < 0)
        failed(vm, false, strerror(ENOMEM));
    plan_request_free(p);
}

static int launch_new(struct vm *vm)
{
    struct launch *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    l->vm = vm;
    l->sync_fd = l->plan_fd = -1;
    ev_init(&l->io, on_sync);
    ev_init(&l->deadline, on_deadline);
    vm->launch = l;
    vm_timer_stop(vm);
    return 0;
}

void launch_adopt(struct vm *vm)
{
    int r = launch_new(vm);

    if (r < 0)
        return;
    vm->launch->adopt = true;
    log_vm_warning(vm->name, "its shim is gone; another is started for QEMU (pid %d)", (int)vm->qemu_pid);
    r = spawn(vm->launch, -1);
    if (r < 0)
        adoption_failed(vm, strerror(-r));
}

static void plan(struct vm *vm)
{
    struct plan_request *p = plan_request_new(vm, PLAN_LAUNCH, on_plan, NULL);
    if (!p || (wish_restore_is_due(vm) && wanted_restore_set(&p->restore, &vm->wanted.restore) < 0)) {
        plan_request_free(p);
        failed(vm, false, strerror(ENOMEM));
        return;
    }
    vm->launch->stale = false;
    plan_request_begin(p);
}

void launch_start(struct vm *vm)
{
    int r = launch_new(vm);

    if (r < 0) {
        failed(vm, false, "out of memory");
        return;
    }
    (void)str_set(&vm->launch_error, NULL);
    vm_set_view(vm, (enum vm_view)STATE_PREPARING, NULL);
    plan(vm);
}

void launch_call_off(struct vm *vm)
{
    if (vm->launch && vm->launch->pull)
        called_off(vm);
}

bool launch_is_preparing(const struct vm *vm) { return vm->launch && !vm->launch->adopt && vm->launch->sync_fd < 0; }

void launch_plan_again(struct vm *vm)
{
    struct launch *l = vm->launch;

    if (!launch_is_preparing(vm))
        return;
    l->pulled = false;
    if (!l->pull) {
        l->stale = true;
        return;
    }
    image_pull_free(steal_ptr(&l->pull));
    vm_set_view(vm, (enum vm_view)STATE_PREPARING, NULL);
    plan(vm);
}

void launch_cancel(struct vm *vm)
{
    if (vm->launch)
        launch_free(vm->launch);
}
