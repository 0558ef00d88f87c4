#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/err.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/program.h"
#include "lib/base/spawn.h"
#include "lib/base/strv.h"
#include "proto/launch.h"

enum { SYNC_FD = 3 };

/* Starts the shim with `options`; the other end of the line on which it says ready, or why not. */
static int spawn_shim(const char *name, const char *shim, const struct strv *options, int *ret_sync_fd)
{
    auto_strv struct strv argv = { 0 };
    auto_fd int ours = -1, theirs = -1;
    char *env[] = { NULL };
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    ours = pair[0];
    theirs = pair[1];
    strv_push(&argv, shim);
    for (size_t i = 0; i < options->n; i++)
        strv_push(&argv, options->items[i]);
    strv_push(&argv, "--sync-fd");
    strv_pushf(&argv, "%d", SYNC_FD);
    strv_push(&argv, name);
    if (argv.failed || options->failed)
        return -ENOMEM;
    r = spawn_detached(&(struct spawn){
        .path = shim,
        .argv = strv_argv(&argv),
        .env = env,
        .fds = &(struct spawn_fd){ theirs, SYNC_FD },
        .n_fds = 1,
        .go_fd = -1,
    });
    if (r >= 0)
        *ret_sync_fd = steal_fd(&ours);
    return r;
}

/* Its answer, up to the end of the line or of the connection. */
static int read_answer(int fd, char *buf, size_t size)
{
    struct pollfd p = { .fd = fd, .events = POLLIN };
    size_t len = 0;
    ssize_t n;

    while (len + 1 < size) {
        if (poll(&p, 1, LAUNCH_READY_TIMEOUT_MS) <= 0)
            return -ETIMEDOUT;
        n = read(fd, buf + len, size - 1 - len);
        if (n <= 0)
            break;
        len += (size_t)n;
        if (buf[0] == LAUNCH_READY || buf[len - 1] == '\n')
            break;
    }
    buf[len] = '\0';
    buf[strcspn(buf, "\n")] = '\0';
    return 0;
}

static enum outcome start_shim(const char *name, const char *shim, const struct strv *options)
{
    static const char go = LAUNCH_GO;
    auto_fd int sync_fd = -1;
    char answer[ERR_TEXT_MAX];
    int r = spawn_shim(name, shim, options, &sync_fd);

    if (r >= 0)
        r = read_answer(sync_fd, answer, sizeof(answer));
    if (r < 0) {
        complain("%s: can't start %s: %s", name, shim, strerror(-r));
        return r == -ETIMEDOUT ? OUTCOME_TIMED_OUT : OUTCOME_FAILED;
    }
    if (answer[0] != LAUNCH_READY) {
        complain("%s: %s", name, answer[0] ? answer : "the shim ended without a word");
        return OUTCOME_REFUSED;
    }
    (void)fd_write_all(sync_fd, &go, 1);
    return OUTCOME_DONE;
}

static enum outcome adopt(const struct invocation *in, const char *name, const char *shim)
{
    auto_strv struct strv options = { 0 };

    strv_push(&options, "--adopt");
    strv_push(&options, "--run-dir");
    strv_pushf(&options, "%s/" FOLDER_VMS "/%s", in->dirs.run, name);
    enum outcome outcome = start_shim(name, shim, &options);
    if (outcome == OUTCOME_DONE)
        say(in, "%s: supervised by a new shim", name);
    return outcome;
}

/* Nobody has a VM of that name: no manager, and where there is none to ask, no spec. */
static enum outcome check_free(const struct invocation *in, const char *name, bool *ret_managed)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *socket = manager_socket(in), *spec = NULL;
    struct err err = ERR_INIT;
    int r = varlink_client_connect(socket, &client, &err);

    *ret_managed = r >= 0;
    if (str_format(&spec, "%s/" FOLDER_VMS "/%s.json", in->dirs.config, name) < 0)
        must(NULL);
    if (r >= 0) {
        r = varlink_client_call_consume(client, MANAGER_INTERFACE ".Get", must_json(json_pack("{s:s}", "name", name)), MANAGER_TIMEOUT_MS,
                                        NULL, &err);
        if (r == -EREMOTEIO && streq(varlink_client_error(client), MANAGER_INTERFACE ".NoSuchVM"))
            return OUTCOME_DONE;
        if (r < 0) {
            complain_call(in, name, r, varlink_client_error(client), NULL, &err);
            return outcome_of_call(r, varlink_client_error(client));
        }
    } else if (!manager_is_away(r)) {
        return manager_complain_connect(in, r, &err);
    } else if (access(spec, F_OK) < 0) {
        return OUTCOME_DONE;
    }
    complain("%s: there is a VM of that name already: choose another, or delete that one first", name);
    return OUTCOME_REFUSED;
}

static void push_folders(const struct invocation *in, const char *name, struct strv *options)
{
    strv_push(options, "--run-dir");
    strv_pushf(options, "%s/" FOLDER_VMS "/%s", in->dirs.run, name);
    strv_push(options, "--state-dir");
    strv_pushf(options, "%s/" FOLDER_VMS "/%s", in->dirs.state, name);
    strv_push(options, "--log-dir");
    strv_pushf(options, "%s/%s", in->dirs.log, name);
}

/* A manager that runs looks for VMs only when it starts, unless it is told. */
static enum outcome tell_manager(const struct invocation *in, const char *name)
{
    auto_json json_t *reply = NULL;

    return manager_call_consume(in, "Adopt", name, must_json(json_pack("{s:s}", "name", name)), &reply);
}

static enum outcome adopt_foreign(const struct invocation *in, const char *shim)
{
    auto_strv struct strv options = { 0 };
    auto_free char *qmp = realpath(in->qmp, NULL);
    const char *name = in->args[0];
    bool managed = false;

    if (!qmp) {
        complain("%s: %s: %s", name, in->qmp, strerror(errno));
        return OUTCOME_FAILED;
    }
    enum outcome outcome = check_free(in, name, &managed);
    if (outcome != OUTCOME_DONE)
        return outcome;
    strv_push(&options, "--foreign");
    strv_pushf(&options, "%" PRId64, in->pid);
    strv_push(&options, "--qmp");
    strv_push(&options, qmp);
    push_folders(in, name, &options);
    outcome = start_shim(name, shim, &options);
    if (outcome != OUTCOME_DONE)
        return outcome;
    say(in, "%s: QEMU %" PRId64 " is supervised by a shim from now on%s", name, in->pid,
        managed ? "" : "; a manager finds it when it starts");
    return managed ? tell_manager(in, name) : OUTCOME_DONE;
}

static enum outcome check_usage(const struct invocation *in)
{
    if (in->pid < 0 && !in->qmp)
        return OUTCOME_DONE;
    if (in->pid < 2 || !in->qmp)
        return complain_usage(in->verb, "--pid and --qmp go together");
    return in->n_args == 1 ? OUTCOME_DONE : complain_usage(in->verb, "with --pid one name is needed");
}

static enum outcome run(const struct invocation *in)
{
    enum outcome outcome = check_usage(in);
    auto_free char *shim = NULL;
    struct err err = ERR_INIT;

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (program_find("holdfast-shim", &shim, &err) < 0) {
        complain("%s", err.text);
        return OUTCOME_FAILED;
    }
    if (in->qmp) {
        outcome = name_check(in, in->args[0]);
        return outcome == OUTCOME_DONE ? adopt_foreign(in, shim) : outcome;
    }
    for (size_t i = 0; i < in->n_args; i++) {
        enum outcome each = name_check(in, in->args[i]);

        if (each == OUTCOME_DONE)
            each = shim_folder_check(in, in->args[i]);
        outcome = outcome_merge(outcome, each == OUTCOME_DONE ? adopt(in, in->args[i], shim) : each);
    }
    return outcome;
}

static const struct flag flags[] = {
    { "pid", 0, FLAG_NUMBER, "PID", "a QEMU that Holdfast didn't start, to be the VM NAME from now on", offsetof(struct invocation, pid),
      NULL },
    { "qmp", 0, FLAG_TEXT, "SOCKET", "with --pid: its monitor's socket", offsetof(struct invocation, qmp), NULL },
    FLAGS_END,
};

const struct verb verb_shim_adopt = {
    .name = "shim adopt",
    .args = "NAME...",
    .group = "shim",
    .summary = "start a shim for a QEMU that has lost its own, manager or not",
    .details =
        "A manager that runs does this by itself.\n"
        "With --pid it is a QEMU that was started by hand or by another manager: it is watched, shown and stopped as NAME from then on.\n"
        "It is started again only by a spec of that name; snapshots and console aren't to be had before that.",
    .example = "vmctl shim adopt web\nvmctl shim adopt --pid 4711 --qmp /run/old-web/qmp.sock web",
    .flags = flags,
    .takes = TAKES_VMS,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
