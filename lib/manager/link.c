#include "lib/manager/link.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/socket.h"
#include "lib/manager/adopt.h"
#include "lib/manager/call.h"
#include "lib/manager/down.h"
#include "lib/manager/events.h"
#include "lib/manager/live.h"
#include "lib/manager/records.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/state.h"
#include "lib/manager/vm_scope.h"
#include "lib/manager/wish.h"
#include "lib/varlink/peer.h"

static void on_process_exited(struct pidwatch *w)
{
    struct vm *vm = w->arg;

    link_close(vm);
    link_look(vm);
}

/* Watches `ref`'s process (taken): its death is the moment to look again. */
static void watch_take(struct vm *vm, struct pidref *ref)
{
    pidwatch_stop(&vm->watch);
    pidref_done(&vm->process);
    vm->process = *ref;
    *ref = PIDREF_NONE;
    pidwatch_start(&vm->watch, vm->manager->loop, &vm->process, on_process_exited, vm);
}

static void unwatch(struct vm *vm)
{
    pidwatch_stop(&vm->watch);
    pidref_done(&vm->process);
}

static void drop_peer(struct vm *vm)
{
    varlink_peer_free(steal_ptr(&vm->peer));
    vm->answered = false;
    vm->stop_sent = 0;
}

void link_close(struct vm *vm)
{
    drop_peer(vm);
    unwatch(vm);
    vm_timer_stop(vm);
}

static void reconnect_later(struct vm *vm)
{
    uint64_t ms = CONNECT_FIRST_MS;

    for (unsigned i = 1; i <= vm->connects && ms < CONNECT_MAX_MS; i++)
        ms = i == 1 ? CONNECT_MIN_MS : ms * 2;
    if (ms > CONNECT_MAX_MS)
        ms = CONNECT_MAX_MS;
    if (vm->connects < UINT8_MAX)
        vm->connects++;
    vm_timer_start(vm, TIMER_CONNECT, ms);
}

/* Somebody answers, but not as the shim of this VM: shown, not believed, tried again later, and never touched. */
static void distrust(struct vm *vm, const char *why)
{
    link_close(vm);
    vm_set_view(vm, VIEW_UNKNOWN, "%s", why);
    vm_timer_start(vm, TIMER_CONNECT, CONNECT_MAX_MS);
    adopt_settled(vm);
    vm_changed(vm);
}

/* It answered and died before it was looked at: no stranger, just gone. Not for ever: who keeps answering in a dead one's name is one. */
static bool died_meanwhile(const struct vm *vm)
{
    uint64_t start_time;

    return vm->peer_pid > 0 && vm->connects < DEAD_ANSWERS_MAX && proc_start_time(vm->peer_pid, &start_time) == -ESRCH;
}

/* Name, boot, and process: the peer of the socket is the process the status names, and that process lives. */
static bool prove(struct vm *vm, const json_t *status)
{
    const json_t *shim = json_object_get(status, "shim");
    json_int_t pid = json_integer_value(json_object_get(shim, "pid"));
    json_int_t start_time = json_integer_value(json_object_get(shim, "start_time"));
    const char *name = json_string_value(json_object_get(status, "name"));
    const char *boot_id = json_string_value(json_object_get(status, "boot_id"));
    auto_free char *why = NULL;
    struct pidref ref = PIDREF_NONE;

    if (!streq_opt(name, vm->name))
        (void)str_format(&why, "the shim in its folder says it is of \"%s\"", name);
    else if (!streq_opt(boot_id, vm->manager->boot_id))
        (void)str_format(&why, "the shim in its folder says it is of another boot");
    else if (pid != vm->peer_pid)
        (void)str_format(&why, "process %d answers and says it is %lld", (int)vm->peer_pid, (long long)pid);
    else if (pidref_open_identity((pid_t)pid, (uint64_t)start_time, &ref) >= 0) {
        watch_take(vm, &ref);
        return true;
    } else if (died_meanwhile(vm)) {
        link_close(vm);
        reconnect_later(vm);
        return false;
    } else
        (void)str_format(&why, "process %lld answers and is not the one that began at %lld", (long long)pid, (long long)start_time);
    distrust(vm, why ? why : "what answers can't prove that it is its shim");
    return false;
}

static uint64_t json_u64(const json_t *object, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(object, key));

    return n > 0 ? (uint64_t)n : 0;
}

static void take_exit(struct vm *vm, const json_t *json)
{
    auto_exit struct exit_record exit = { 0 };

    if (!json_is_object(json) || exit_from_wire(json, &exit) < 0)
        return;
    if (!vm->last_exit || exit.incarnation >= vm->last_exit->incarnation)
        (void)vm_set_exit_take(vm, &exit);
}

static void take_state(struct vm *vm, const json_t *status)
{
    const char *name = json_string_value(json_object_get(status, "state"));
    const char *detail = json_string_value(json_object_get(status, "detail"));
    int state = name ? enum_from_string(&vm_state_names, name) : -EINVAL;

    if (state >= 0)
        wish_note_state(vm, vm->incarnation, (enum vm_state)state);
    if (state >= 0)
        vm_set_view(vm, (enum vm_view)state, detail ? "%s" : NULL, detail);
    else /* a newer shim's word */
        vm_set_view(vm, VIEW_UNKNOWN, "its shim says it is \"%s\"", name ? name : "");
}

void link_take_status(struct vm *vm, const json_t *status)
{
    const json_t *qemu = json_object_get(status, "qemu");
    const char *health = json_string_value(json_object_get(status, "health"));
    const char *digest = json_string_value(json_object_get(status, "plan_digest"));
    uint64_t uptime_us = json_u64(status, "uptime_ms") * 1000, now = clock_boottime_us();
    int h = health ? enum_from_string(&vm_health_names, health) : HEALTH_NONE;

    vm->incarnation = json_u64(status, "incarnation");
    vm->restarts = json_u64(status, "restarts");
    vm->health = (uint8_t)(h < 0 ? HEALTH_NONE : h);
    vm->shim_pid = (pid_t)json_u64(json_object_get(status, "shim"), "pid");
    vm->qemu_pid = (pid_t)json_u64(qemu, "pid");
    vm->started_us = vm->qemu_pid == 0 ? 0 : now > uptime_us ? now - uptime_us : 1;
    if (digest)
        snprintf(vm->plan_digest, sizeof(vm->plan_digest), "%s", digest);
    take_exit(vm, json_object_get(status, "last_exit"));
    take_state(vm, status);
    wish_note_incarnation(vm);
    live_status(vm);
}

/* The first reply: who is it, and in what state? */
static void first_status(struct vm *vm, const json_t *status)
{
    uint64_t newest = json_u64(status, "event_seq");

    if (!prove(vm, status))
        return;
    vm_timer_stop(vm);
    vm->presence = PRESENCE_SHIM;
    vm->answered = true;
    vm->probing = false;
    vm->unclear = vm->from_next = false;
    (void)str_set(&vm->launch_error, NULL);
    vm->connects = 0;
    if (newest < vm->event_seq) {
        log_vm_warning(vm->name, "its events are numbered anew (%llu after %llu)", (unsigned long long)newest,
                       (unsigned long long)vm->event_seq);
        vm->event_seq = newest;
    }
    wish_adopt(vm, json_u64(status, "incarnation"));
    link_take_status(vm, status);
    live_check(vm);
    vm_scope_check(vm);
    adopt_settled(vm);
    /* Its spec may have been edited since it was launched, with nobody there to see it. */
    vm->edit_due = true;
    spec_edit_kick(vm->manager);
}

static void line_ended(struct vm *vm, int error);

static void on_monitor(void *arg, const struct varlink_reply *r)
{
    struct vm *vm = arg;
    const json_t *status, *event, *gap;

    if (r->failure < 0) {
        line_ended(vm, r->failure);
        return;
    }
    if (r->error && streq_opt(json_string_value(json_object_get(r->parameters, "id")), "no-memory")) { /* for the moment: asked again */
        line_ended(vm, -EAGAIN);
        return;
    }
    if (r->error) {
        auto_free char *why = NULL;

        (void)str_format(&why, "its shim refuses to be followed: %s", r->error);
        distrust(vm, why ? why : r->error);
        return;
    }
    status = json_object_get(r->parameters, "status");
    event = json_object_get(r->parameters, "event");
    gap = json_object_get(r->parameters, "gap");
    if (!vm->answered && !json_is_object(status)) {
        line_ended(vm, -EPROTO);
        return;
    }
    if (json_is_object(gap))
        events_gap(vm, json_u64(gap, "lost"), json_u64(gap, "next"));
    if (json_is_object(status)) {
        if (!vm->answered)
            first_status(vm, status);
        else
            link_take_status(vm, status);
    }
    if (!vm->peer)
        return;
    if (json_is_object(event))
        events_received(vm, event);
    vm_changed(vm);
}

static void on_closed(void *arg, int error)
{
    struct vm *vm = arg;

    line_ended(vm, error < 0 ? error : -ECONNRESET);
}

/* The connection is gone. A process that goes away closes it a moment before its locks are free: its pidfd says when. */
static void line_ended(struct vm *vm, int error)
{
    if (!vm->peer)
        return;
    log_vm_debug(vm->name, "line to its shim ended: %s", strerror(-error));
    drop_peer(vm);
    vm_timer_stop(vm);
    if (vm->process.fd >= 0 && pidref_exited(&vm->process) == 0) {
        vm_timer_start(vm, TIMER_SETTLE, SHIM_TIMEOUT_MS);
        return;
    }
    unwatch(vm);
    link_look(vm);
}

/* `error`: nobody listens, or the way there is barred. The locks know more. */
static void connect_failed(struct vm *vm, int error)
{
    if (error == -ECONNREFUSED || error == -ENOENT || error == -ENOTDIR) {
        link_look(vm);
        return;
    }
    vm->presence = PRESENCE_SHIM;
    vm_set_view(vm, error == -EAGAIN ? VIEW_UNRESPONSIVE : VIEW_UNKNOWN, "can't connect to its shim: %s", strerror(-error));
    vm_timer_start(vm, TIMER_CONNECT, CONNECT_MIN_MS);
    adopt_settled(vm);
    vm_changed(vm);
}

void link_open(struct vm *vm)
{
    struct manager *m = vm->manager;
    char path[VM_PATH_MAX];
    struct socket_peer peer;
    int fd, r;

    link_close(vm);
    fd = socket_connect(m->run_vms_fd, vm_path(vm, FILE_SHIM_SOCKET, path));
    if (fd < 0) {
        connect_failed(vm, fd);
        return;
    }
    r = socket_peer(fd, &peer);
    if (r >= 0)
        r = varlink_peer_new_take(m->loop, fd, m->shim_interface, on_closed, vm, &vm->peer);
    if (r < 0) {
        fd_close(fd);
        connect_failed(vm, r);
        return;
    }
    vm->peer_pid = peer.pid;
    vm->presence = PRESENCE_SHIM;
    vm_timer_start(vm, TIMER_ANSWER, SHIM_TIMEOUT_MS);
    /* No deadline on the call itself: a shim that wakes up answers on this line, and is believed at once. */
    r = varlink_peer_call_consume(vm->peer, "Monitor", json_pack("{s:I}", "since", (json_int_t)vm->event_seq), VARLINK_MORE, 0, on_monitor,
                                  vm);
    if (r < 0)
        line_ended(vm, r);
}

static void show_unresponsive(struct vm *vm)
{
    struct manager *m = vm->manager;
    const struct record_dirs dirs = { m->run_vms_fd, m->state_vms_fd };
    auto_status struct status status = { 0 };

    /* Its last words on disk are better than nothing. */
    if (vm->shim_pid == 0 && records_read_status(&dirs, vm->name, &status) >= 0) {
        if (status.incarnation > vm->incarnation)
            vm->incarnation = status.incarnation;
        vm->shim_pid = (pid_t)status.shim.pid;
        vm->qemu_pid = (pid_t)status.qemu.pid;
        vm->restarts = status.restarts;
    }
    vm_set_view(vm, VIEW_UNRESPONSIVE, "its shim doesn't answer");
    adopt_settled(vm);
    vm_changed(vm);
}

void link_timer(struct vm *vm, enum vm_timer use)
{
    switch (use) {
    case TIMER_ANSWER:
        show_unresponsive(vm);
        break;
    case TIMER_SETTLE: /* it lives and has hung up on us */
    case TIMER_CONNECT:
        link_open(vm);
        break;
    case TIMER_LOOK:
        link_look(vm);
        break;
    case TIMER_PROBE:
        if (vm->view == VIEW_UNRESPONSIVE)
            link_unanswered(vm);
        break;
    case TIMER_NONE:
    case TIMER_RELAUNCH:
        break;
    }
}

/* QEMU runs and its shim doesn't: reconciling starts another, if the record says which QEMU that is. */
static void orphan(struct vm *vm)
{
    struct manager *m = vm->manager;
    const struct record_dirs dirs = { m->run_vms_fd, m->state_vms_fd };
    auto_status struct status status = { 0 };
    struct pidref ref = PIDREF_NONE;
    int r = records_read_status(&dirs, vm->name, &status);

    vm->presence = PRESENCE_ORPHAN;
    vm->shim_pid = vm->qemu_pid = 0;
    if (r >= 0 && status.incarnation > vm->incarnation)
        vm->incarnation = status.incarnation;
    if (r >= 0 && status.qemu.pid && pidref_open_identity((pid_t)status.qemu.pid, status.qemu.start_time, &ref) >= 0) {
        vm->qemu_pid = ref.pid;
        watch_take(vm, &ref);
        vm_set_view(vm, VIEW_ORPHANED, "QEMU runs as process %d and no shim supervises it", (int)vm->qemu_pid);
    } else {
        /* A helper of a QEMU that is gone, for one. With a record a shim can end it, and conclude; without one it is left alone. */
        vm_set_view(vm, VIEW_ORPHANED, "a process holds %s, and it isn't the QEMU on record", FILE_VM_LOCK);
        if (r < 0)
            vm_timer_start(vm, TIMER_LOOK, LOOK_AGAIN_MS);
    }
    wish_adopt(vm, vm->incarnation);
    adopt_settled(vm);
    vm_changed(vm);
}

void link_look(struct vm *vm)
{
    struct manager *m = vm->manager;
    char path[VM_PATH_MAX];
    int shim, qemu;

    if (m->stopping || vm->launch)
        return;
    link_close(vm);
    shim = lock_is_held(m->run_vms_fd, vm_path(vm, FILE_SHIM_LOCK, path));
    if (shim > 0) {
        vm->presence = PRESENCE_SHIM;
        if (vm->connects > 0)
            show_unresponsive(vm);
        reconnect_later(vm);
        return;
    }
    qemu = shim < 0 ? shim : lock_is_held(m->run_vms_fd, vm_path(vm, FILE_VM_LOCK, path));
    if (qemu > 0) {
        orphan(vm);
    } else if (qemu < 0 && qemu != -ENOTDIR) {
        vm->presence = PRESENCE_SHIM; /* not known to be gone, so not treated as gone */
        vm_set_view(vm, VIEW_UNKNOWN, "its locks can't be read: %s", strerror(-qemu));
        vm_timer_start(vm, TIMER_LOOK, LOOK_AGAIN_MS);
        adopt_settled(vm);
        vm_changed(vm);
    } else {
        down_begin(vm);
    }
}

static void on_probe(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    vm->probing = false;
    if (!vm->answered)
        return; /* its end is noticed elsewhere */
    if (r->failure < 0 || r->error) {
        vm_timer_start(vm, TIMER_PROBE, CONNECT_MIN_MS);
        return;
    }
    link_take_status(vm, json_object_get(r->parameters, "status"));
    vm->stop_sent = 0; /* what it was told while it slept may be lost */
    vm_changed(vm);
}

void link_unanswered(struct vm *vm)
{
    if (vm->presence != PRESENCE_SHIM)
        return;
    show_unresponsive(vm);
    if (vm->probing || !vm->answered)
        return;
    vm->probing = shim_call_consume(vm, "GetStatus", NULL, 0, on_probe, NULL) >= 0;
    if (!vm->probing) /* its backlog is full, for one */
        vm_timer_start(vm, TIMER_PROBE, CONNECT_MIN_MS);
}

void link_check_stopped(struct vm *vm)
{
    if (vm->presence == PRESENCE_SHIM && vm->answered && vm->view != VIEW_UNRESPONSIVE && proc_is_stopped(vm->shim_pid))
        link_unanswered(vm);
}
