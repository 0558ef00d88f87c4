#include "cmd/vmctl/doctor_prove.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/table.h"
#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/pidref.h"
#include "lib/base/spawn.h"

enum {
    START_TIMEOUT_MS = 60 * 1000,
    RESTART_TIMEOUT_MS = 3 * 60 * 1000, /* systemd's own patience with a unit is half of it */
    ANSWER_TIMEOUT_MS = 60 * 1000,
    ADOPT_TIMEOUT_MS = 30 * 1000,
    POLL_MS = 20,
    OUTPUT_MAX = 64 * 1024,
};

struct process {
    pid_t pid; /* 0: none */
    uint64_t start_time;
};

struct vm_pids {
    char *name;
    struct process shim, qemu;
    pid_t shim_after, qemu_after;
    bool lives, kept;
};

struct proof {
    const struct invocation *in;
    char *vm; /* the throw-away one */
    bool applied;
    struct process manager_before, manager_after;
    uint64_t away_ms; /* between the last and the first answer */
    struct vm_pids *vms;
    size_t n_vms;
};

static struct process process_now(json_int_t pid)
{
    struct process p = { .pid = (pid_t)pid };

    if (pid <= 0 || proc_start_time(p.pid, &p.start_time) < 0)
        return (struct process){ 0 };
    return p;
}

/* Whether it is still the process it was: alive, and not another with its pid. */
static bool process_still(const struct process *p)
{
    uint64_t start_time;

    return p->pid > 0 && proc_start_time(p->pid, &start_time) >= 0 && start_time == p->start_time;
}

static bool interrupted(void)
{
    sigset_t pending;

    return sigpending(&pending) == 0 && (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP));
}

static void pause_shortly(void)
{
    const struct timespec time = { .tv_nsec = POLL_MS * 1000L * 1000L };

    (void)clock_nanosleep(CLOCK_MONOTONIC, 0, &time, NULL);
}

/* Which process answers as the manager; none is no error. Quiet: while it restarts there is nobody. */
static struct process manager_process(const struct invocation *in)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *path = manager_socket(in);
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (varlink_client_connect(path, &client, NULL) < 0 || getsockopt(varlink_client_fd(client), SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return (struct process){ 0 };
    /* One that is on its way out accepts, and doesn't answer. */
    if (varlink_client_call_consume(client, "org.varlink.service.GetInfo", NULL, MANAGER_TIMEOUT_MS, NULL, NULL) < 0)
        return (struct process){ 0 };
    return process_now(peer.pid);
}

static enum outcome start_vm(struct proof *p)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *applied = NULL, *reply = NULL;
    struct err err = ERR_INIT;
    /* It has nothing to boot from: its firmware goes round and round, which is all that is needed. */
    json_t *spec = must_json(json_pack("{s:s, s:s, s:i, s:[{s:s, s:s}], s:{s:s}, s:{s:s}}", "name", p->vm, "memory", "64M", "cpus", 1,
                                       "disks", "name", "empty", "size", "1M", "restart", "policy", "never", "stop", "timeout", "1s"));
    enum outcome outcome = manager_connect(p->in, &client);

    if (outcome != OUTCOME_DONE) {
        json_decref(spec);
        return outcome;
    }
    p->applied = true; /* from here on it may be there */
    outcome = manager_call_on_consume(p->in, client, "Apply", p->vm, must_json(json_pack("{s:o}", "spec", spec)), &applied);
    if (outcome != OUTCOME_DONE)
        return outcome;
    int r = varlink_client_call_consume(client, MANAGER_INTERFACE ".Start", must_json(json_pack("{s:s}", "name", p->vm)), START_TIMEOUT_MS,
                                        &reply, &err);
    if (r < 0)
        complain_call(p->in, p->vm, r, varlink_client_error(client), reply, &err);
    return r < 0 ? outcome_of_call(r, varlink_client_error(client)) : OUTCOME_DONE;
}

/* Every VM that has a QEMU now. */
static enum outcome note_vms(struct proof *p)
{
    auto_json json_t *reply = NULL;
    const json_t *vms, *vm;
    size_t i;
    enum outcome outcome = manager_call_consume(p->in, "List", NULL, NULL, &reply);

    if (outcome != OUTCOME_DONE)
        return outcome;
    vms = json_object_get(reply, "vms");
    p->vms = must(calloc(json_array_size(vms) + 1, sizeof(*p->vms)));
    json_array_foreach (vms, i, vm) {
        struct process qemu = process_now(member_int(vm, "qemu_pid"));

        if (qemu.pid)
            p->vms[p->n_vms++] = (struct vm_pids){ .name = must(strdup(member_text(vm, "name"))),
                                                   .shim = process_now(member_int(vm, "shim_pid")),
                                                   .qemu = qemu };
    }
    return OUTCOME_DONE;
}

static char *shell_words(const struct doctor *d)
{
    auto_free char *scope = doctor_systemctl_scope(d);
    char *words = NULL;

    if (str_format(&words, "systemctl %s restart -- %s", scope, d->manager_unit) < 0)
        must(NULL);
    return words;
}

static enum outcome restart_manager(struct proof *p, const char *command)
{
    char *const argv[] = { (char *)(uintptr_t) "/bin/sh", (char *)(uintptr_t) "-c", (char *)(uintptr_t)command, NULL };
    struct spawn_output output = { 0 };
    struct process now;
    uint64_t begun = clock_mono_us();

    say(p->in, "restarting the manager (pid %d): %s", (int)p->manager_before.pid, command);
    int r = spawn_capture(&(struct spawn){ .path = argv[0], .argv = argv, .env = environ, .go_fd = -1 }, RESTART_TIMEOUT_MS, OUTPUT_MAX,
                          &output);
    if (r < 0) {
        complain("%s: %s", command, strerror(-r));
        return OUTCOME_FAILED;
    }
    bool failed = !WIFEXITED(output.wstatus) || WEXITSTATUS(output.wstatus) != 0;
    if (failed)
        complain("%s failed: %s", command, output.err);
    spawn_output_done(&output);
    if (failed)
        return OUTCOME_FAILED;
    for (uint64_t until = clock_mono_us() + ANSWER_TIMEOUT_MS * UINT64_C(1000); clock_mono_us() < until; pause_shortly()) {
        now = manager_process(p->in);
        if (now.pid && !process_still(&p->manager_before)) {
            p->manager_after = now;
            p->away_ms = (clock_mono_us() - begun) / 1000;
            return OUTCOME_DONE;
        }
        if (interrupted())
            break;
    }
    if (process_still(&p->manager_before))
        complain("the manager was not restarted: process %d is still it", (int)p->manager_before.pid);
    else
        complain("no manager answers after the restart (see: journalctl -u holdfastd); running VMs are not affected");
    return OUTCOME_FAILED;
}

/* Fills in the pids of after. */
static void compare_vms(struct proof *p, const json_t *vms)
{
    const json_t *vm;
    size_t k;

    for (size_t i = 0; i < p->n_vms; i++) {
        struct vm_pids *one = &p->vms[i];

        one->shim_after = one->qemu_after = 0;
        json_array_foreach (vms, k, vm)
            if (streq(member_text(vm, "name"), one->name)) {
                one->shim_after = (pid_t)member_int(vm, "shim_pid");
                one->qemu_after = (pid_t)member_int(vm, "qemu_pid");
            }
        one->lives = process_still(&one->qemu) && process_still(&one->shim);
        one->kept = one->lives && one->qemu_after == one->qemu.pid && one->shim_after == one->shim.pid;
    }
}

/* Whether one lives that the manager hasn't found yet. */
static bool some_unfound(const struct proof *p)
{
    for (size_t i = 0; i < p->n_vms; i++)
        if (p->vms[i].lives && !p->vms[i].kept)
            return true;
    return false;
}

static bool all_kept(const struct proof *p)
{
    for (size_t i = 0; i < p->n_vms; i++)
        if (!p->vms[i].kept)
            return false;
    return true;
}

static enum outcome look_again(struct proof *p)
{
    uint64_t until = clock_mono_us() + ADOPT_TIMEOUT_MS * UINT64_C(1000);

    for (;; pause_shortly()) {
        auto_json json_t *reply = NULL;
        enum outcome outcome = manager_call_consume(p->in, "List", NULL, NULL, &reply);

        if (outcome != OUTCOME_DONE)
            return outcome;
        compare_vms(p, json_object_get(reply, "vms"));
        if (!some_unfound(p) || clock_mono_us() > until || interrupted())
            return all_kept(p) ? OUTCOME_DONE : OUTCOME_FAILED;
    }
}

static void set_change(struct table *t, size_t column, pid_t before, pid_t after)
{
    auto_free char *text = NULL;

    if (before == after ? str_format(&text, "%d", (int)before) < 0 : str_format(&text, "%d > %d", (int)before, (int)after) < 0)
        must(NULL);
    table_set(t, column, text, before == after ? NULL : "red");
}

static enum outcome tell(const struct proof *p, const char *command, bool kept)
{
    static const struct table_column columns[] = {
        { .title = "NAME" }, { .title = "SHIM", .right = true }, { .title = "QEMU", .right = true }, { .title = "RESULT" }
    };
    auto_json json_t *vms = must_json(json_array());
    auto_table struct table t;

    table_init(&t, columns, ARRAY_LEN(columns));
    for (size_t i = 0; i < p->n_vms; i++) {
        const struct vm_pids *one = &p->vms[i];

        table_add_row(&t);
        table_set(&t, 0, one->name, NULL);
        set_change(&t, 1, one->shim.pid, one->shim_after);
        set_change(&t, 2, one->qemu.pid, one->qemu_after);
        table_set(&t, 3, one->kept ? "kept" : "LOST", one->kept ? "green" : "red");
        json_array_append_new(vms, must_json(json_pack("{s:s, s:i, s:i, s:i, s:i, s:b}", "name", one->name, "shim_before",
                                                       (int)one->shim.pid, "shim_after", (int)one->shim_after, "qemu_before",
                                                       (int)one->qemu.pid, "qemu_after", (int)one->qemu_after, "kept", one->kept)));
    }
    if (p->in->json) {
        auto_json json_t *all = must_json(json_pack("{s:b, s:s, s:i, s:i, s:I, s:O}", "kept", kept, "command", command, "manager_before",
                                                    (int)p->manager_before.pid, "manager_after", (int)p->manager_after.pid, "restart_ms",
                                                    (json_int_t)p->away_ms, "vms", vms));
        put_json(all);
        return OUTCOME_DONE;
    }
    say(p->in, "manager: pid %d before, %d after; %d ms from the command to the new one's answer", (int)p->manager_before.pid,
        (int)p->manager_after.pid, (int)p->away_ms);
    return p->in->quiet ? OUTCOME_DONE : table_print(&t, p->in);
}

/* Whatever became of it before. */
static enum outcome remove_vm(struct proof *p)
{
    auto_json json_t *reply = NULL;

    if (!p->applied)
        return OUTCOME_DONE;
    enum outcome outcome = manager_call_consume(p->in, "Delete", p->vm,
                                                must_json(json_pack("{s:s, s:b, s:b}", "name", p->vm, "force", 1, "purge", 1)), &reply);
    if (outcome != OUTCOME_DONE && outcome != OUTCOME_NO_SUCH)
        complain("%s is left behind; once a manager runs: vmctl delete %s --force --purge", p->vm, p->vm);
    return outcome == OUTCOME_NO_SUCH ? OUTCOME_DONE : outcome;
}

static enum outcome prove(struct proof *p, const char *command)
{
    enum outcome outcome = start_vm(p);

    if (outcome == OUTCOME_DONE)
        outcome = note_vms(p);
    p->manager_before = manager_process(p->in);
    if (outcome != OUTCOME_DONE || interrupted())
        return outcome != OUTCOME_DONE ? outcome : OUTCOME_FAILED;
    outcome = restart_manager(p, command);
    if (outcome != OUTCOME_DONE)
        return outcome;
    outcome = look_again(p);
    enum outcome told = tell(p, command, outcome == OUTCOME_DONE);
    if (outcome == OUTCOME_FAILED)
        complain("the restart did not keep every VM");
    return outcome != OUTCOME_DONE ? outcome : told;
}

/* The command that restarts the manager, or NULL and why there is none. */
static char *find_command(const struct doctor *d)
{
    if (d->in->restart_with)
        return must(strdup(d->in->restart_with));
    if (!d->systemd)
        complain("no systemd runs this host: say how the manager is restarted, with --restart-with COMMAND");
    else if (!d->manager_pid)
        complain("no manager runs: start it first (systemctl start %s)", d->manager_unit);
    else if (!d->manager_in_unit && !(d->in->unit && doctor_unit_is_loaded((struct doctor *)(uintptr_t)d, d->manager_unit)))
        complain("the manager (pid %d) is no unit of systemd: say how it is restarted, with --restart-with COMMAND", (int)d->manager_pid);
    else
        return shell_words(d);
    return NULL;
}

/* With --json the findings are no part of the answer; in a refusal they are why. */
static bool is_safe(struct doctor *d)
{
    doctor_run_checks(d, true);
    return !d->restart_kills && !d->restart_unclear;
}

enum outcome doctor_prove(const struct invocation *in)
{
    auto_doctor struct doctor d = { 0 };
    auto_free char *command = NULL;
    struct proof p = { .in = in };
    sigset_t blocked, before;

    if (in->root)
        return complain_usage(in->verb, "--prove and --root don't go together");
    doctor_open(&d, in);
    if (!is_safe(&d) && !in->force) {
        complain("a restart may end VMs%s; nothing was done (--force does it all the same)", in->json ? "" : ", see above");
        return OUTCOME_REFUSED;
    }
    command = find_command(&d);
    if (!command)
        return OUTCOME_REFUSED;
    if (str_format(&p.vm, "doctor-%d", (int)getpid()) < 0)
        must(NULL);
    /* Ctrl + C is heard between two steps, so that the VM is removed in any case. */
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGINT);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGHUP);
    (void)sigprocmask(SIG_BLOCK, &blocked, &before);
    enum outcome outcome = prove(&p, command);
    enum outcome removed = remove_vm(&p);
    for (size_t i = 0; i < p.n_vms; i++)
        free(p.vms[i].name);
    free(p.vms);
    free(p.vm);
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    return outcome != OUTCOME_DONE ? outcome : removed;
}
