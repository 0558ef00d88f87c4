#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/err.h"
#include "lib/base/fd.h"
#include "lib/base/program.h"
#include "lib/base/spawn.h"
#include "lib/base/strv.h"
#include "proto/launch.h"

enum { SYNC_FD = 3 };

/* Starts the shim; the other end of the line on which it says ready, or why not. */
static int spawn_shim(const struct invocation *in, const char *name, const char *shim, int *ret_sync_fd)
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
    strv_push(&argv, "--adopt");
    strv_push(&argv, "--run-dir");
    strv_pushf(&argv, "%s/" FOLDER_VMS "/%s", in->dirs.run, name);
    strv_push(&argv, "--sync-fd");
    strv_pushf(&argv, "%d", SYNC_FD);
    strv_push(&argv, name);
    if (argv.failed)
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

static enum outcome adopt(const struct invocation *in, const char *name, const char *shim)
{
    static const char go = LAUNCH_GO;
    auto_fd int sync_fd = -1;
    char answer[ERR_TEXT_MAX];
    int r = spawn_shim(in, name, shim, &sync_fd);

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
    say(in, "%s: supervised by a new shim", name);
    return OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    enum outcome outcome = OUTCOME_DONE;
    auto_free char *shim = NULL;
    struct err err = ERR_INIT;

    if (program_find("holdfast-shim", &shim, &err) < 0) {
        complain("%s", err.text);
        return OUTCOME_FAILED;
    }
    for (size_t i = 0; i < in->n_args; i++) {
        enum outcome each = name_check(in, in->args[i]);

        if (each == OUTCOME_DONE)
            each = shim_folder_check(in, in->args[i]);
        outcome = outcome_merge(outcome, each == OUTCOME_DONE ? adopt(in, in->args[i], shim) : each);
    }
    return outcome;
}

const struct verb verb_shim_adopt = {
    .name = "shim adopt",
    .args = "NAME...",
    .group = "shim",
    .summary = "start a shim for a QEMU that has lost its own, manager or not",
    .details = "A manager that runs does this by itself.",
    .example = "vmctl shim adopt web",
    .takes = TAKES_VMS,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
