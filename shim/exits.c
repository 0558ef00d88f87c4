/* QEMU's end: told by its pidfd, explained by its last words and its status, recorded durably, then the policy decides. */
#include <errno.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/wait.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/log.h"
#include "proto/launch.h"
#include "shim/health.h"
#include "shim/logs.h"
#include "shim/ram.h"
#include "shim/restore.h"
#include "shim/snapshot.h"
#include "shim/vm.h"

enum {
    LAST_WORDS_MS = 200,
    DETAIL_LINES = 5,
    STATUS_RETRY_MS = 10, /* init reaps an adopted QEMU in its own time, and only then the kernel tells its status … */
    STATUS_TRIES = 300,   /* … which is worth 3 s; after that it is unknown */
};

static uint32_t random_bits(void)
{
    uint32_t bits = 0;

    (void)!getrandom(&bits, sizeof(bits), GRND_NONBLOCK);
    return bits;
}

static struct exit_record make_record(struct vm *vm, struct exit_cause cause, const char *detail)
{
    struct exit_record record = {
        .schema = EXIT_SCHEMA,
        .incarnation = vm->incarnation,
        .kind = (int)cause.kind,
        .code = cause.code,
        .signal = cause.signal,
        .at = clock_real_us(),
        .event_seq = vm->events.next_seq + 1, /* the exit's own event and the state's come behind */
    };

    if (str_set(&record.name, vm->plan.name) < 0 || str_set(&record.boot_id, vm->boot_id) < 0 || str_set(&record.detail, detail) < 0)
        log_vm_error(vm->plan.name, "out of memory: the exit record lacks its words");
    if (record.detail)
        utf8_clean(record.detail);
    return record;
}

/* One end for all: record, event, then the state by the policy's verdict. */
static void conclude(struct vm *vm, struct exit_cause cause, const char *detail)
{
    uint64_t delay_ms = 0, ran_ms = vm->qemu.started ? (clock_boottime_us() - vm->qemu.started) / 1000 : 0;
    auto_free char *words = NULL, *text = NULL;
    struct exit_record record;
    enum verdict verdict;

    if (vm->plan.restart.reset_after_ms > 0 && vm->qemu.ran && ran_ms >= vm->plan.restart.reset_after_ms)
        backoff_reset(&vm->backoff);
    if (vm_is_restoring(vm) && !vm->stop.asked) /* half a restore is no guest, and to boot it was not what was asked for */
        verdict = VERDICT_FAILED;
    else
        verdict = vm->stop.for_health && !vm->stop.asked ? policy_restart(&vm->backoff, random_bits(), &delay_ms)
                                                         : policy_verdict((enum restart_policy)vm->plan.restart.policy, cause,
                                                                          vm->stop.asked, &vm->backoff, random_bits(), &delay_ms);
    FAILPOINT("shim.before-exit-record");
    record = make_record(vm, cause, detail);
    record.final = verdict != VERDICT_RESTART;
    vm_write_exit(vm, &record);
    exit_clear(&vm->last_exit);
    vm->last_exit = record;
    words = exit_describe(&record);
    vm_tell(vm, EVENT_EXIT, exit_to_wire(&record), "%s%s%s", words ? words : "ended", detail ? ": " : "", detail ? detail : "");
    vm_ladder_end(vm);
    vm->qemu.started = 0;
    switch (verdict) {
    case VERDICT_ENDED:
        vm_handle(vm, VM_ENDED, words);
        return;
    case VERDICT_FAILED:
        (void)str_format(&text, "%s%s%s", words ? words : "ended", detail ? ": " : "", detail ? detail : "");
        vm_handle(vm, VM_FAILED, text);
        return;
    case VERDICT_RESTART:
        (void)str_format(&text, "%llu/%llu, next in %.1f s, last: %s%s%s", (unsigned long long)vm->backoff.attempt,
                         (unsigned long long)vm->backoff.max_attempts, (double)delay_ms / 1000.0, words ? words : "ended",
                         detail ? ": " : "", detail ? detail : "");
        vm->retry_ms = delay_ms;
        if (vm_handle(vm, VM_RETRY, text) >= 0)
            vm_retry_later(vm);
        return;
    }
}

void vm_launch_failed(struct vm *vm, const int *wstatus, const char *detail)
{
    struct exit_cause cause = policy_cause(&(struct ending){
        .status_known = wstatus != NULL,
        .wstatus = wstatus ? *wstatus : 0,
        .stop_asked = vm->stop.asked,
        .killed_by_us = vm->stop.asked,
    });

    conclude(vm, cause, detail);
}

/* wait(2) status of a QEMU of ours, or what the kernel still knows of one that isn't our child. -EAGAIN: not yet. */
static int qemu_wstatus(struct vm *vm, int *ret_wstatus)
{
    siginfo_t info = { 0 };

    if (!vm->qemu.child)
        return pidref_exit_status(&vm->qemu.ref, ret_wstatus);
    if (waitid(P_PIDFD, (id_t)vm->qemu.ref.fd, &info, WEXITED) < 0)
        return -errno;
    *ret_wstatus = info.si_code == CLD_EXITED ? info.si_status << 8 : info.si_status;
    return 0;
}

/* QEMU is gone: what it leaves behind goes with it, and only then is the end concluded, so that no successor meets it. */
static void qemu_ended(struct vm *vm)
{
    struct ending ending = {
        .reason = vm->qemu.shutdown_reason,
        .stop_asked = vm->stop.asked || vm->stop.for_health,
        .killed_by_us = vm->stop.deadly,
    };
    int r;

    health_rest(vm);
    /* Unreaped, our child's number is still its group's. */
    if (vm->qemu.child)
        (void)kill(-vm->qemu.ref.pid, SIGKILL);
    r = qemu_wstatus(vm, &ending.wstatus);
    if (r == -EAGAIN && vm->qemu.asked_status++ < STATUS_TRIES) {
        ev_timer_set(&vm->qemu.last_words, STATUS_RETRY_MS / 1000.0, 0.0);
        ev_timer_start(loop_ev(vm->loop), &vm->qemu.last_words);
        return;
    }
    ending.status_known = r >= 0;
    tree_forget(&vm->tree, vm->qemu.ref.pid);
    vm->qemu.cause = policy_cause(&ending);
    if (vm->qemu.cause.kind == EXIT_SIGNAL && vm->qemu.cause.signal == SIGKILL && oom_watch_struck(&vm->qemu.oom))
        vm->qemu.cause.kind = EXIT_OOM;
    pidref_done(&vm->qemu.ref);
    snapshot_abort(vm);
    ram_end(vm);
    qmp_client_free(steal_ptr(&vm->qemu.qmp));
    vm->qemu.qmp_ready = vm->qemu.gone = false;
    vm_console_end_boot(vm);
    tree_kill(&vm->tree);
}

static void on_lost(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, qemu.last_words);

    tree_kill(&vm->tree);
}

void vm_qemu_lost(struct vm *vm)
{
    vm->qemu.cause = (struct exit_cause){ EXIT_UNKNOWN, -1, 0 };
    ev_timer_init(&vm->qemu.last_words, on_lost, 0.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->qemu.last_words);
}

void vm_tree_emptied(void *arg)
{
    struct vm *vm = arg;
    struct exit_cause cause = vm->qemu.cause;
    auto_free char *tail = NULL;

    if (restore_failure(vm) || vm->qemu.doom) {
        (void)str_set(&tail, restore_failure(vm) ? restore_failure(vm) : vm->qemu.doom);
    } else if (cause.kind != EXIT_STOPPED && cause.kind != EXIT_GUEST_SHUTDOWN) {
        tail = log_file_tail(vm->log_fd, FILE_QEMU_LOG, vm->qemu.log_offset, DETAIL_LINES);
    }
    restore_end(vm);
    tree_remove_cgroup(&vm->tree);
    conclude(vm, cause, tail);
}

static void on_last_words(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct vm *vm = container_of(w, struct vm, qemu.last_words);

    ev_timer_stop(ev, w);
    if (vm->qemu.gone)
        qemu_ended(vm);
}

/* The SHUTDOWN event may still wait in the monitor's socket: the connection's end, or a moment, comes first. */
static void on_qemu_exited(struct pidwatch *w)
{
    struct vm *vm = w->arg;

    pidwatch_stop(w);
    vm->qemu.gone = true;
    vm->qemu.asked_status = 0;
    ev_timer_set(&vm->qemu.last_words, LAST_WORDS_MS / 1000.0, 0.0);
    ev_timer_start(loop_ev(vm->loop), &vm->qemu.last_words);
    if (!vm->qemu.qmp || vm->qemu.qmp_closed)
        ev_feed_event(loop_ev(vm->loop), &vm->qemu.last_words, EV_TIMER);
}

void vm_qemu_watch(struct vm *vm)
{
    if (oom_watch_begin(&vm->qemu.oom, vm->qemu.ref.pid) < 0)
        log_vm_warning(vm->plan.name, "out of memory: an end by the OOM killer would be shown as signal 9");
    ev_init(&vm->qemu.last_words, on_last_words);
    pidwatch_start(&vm->qemu.watch, vm->loop, &vm->qemu.ref, on_qemu_exited, vm);
}
