/* Releases that a program of the operator's brings: what it is asked for is in its words, what it answers on its stdout.
 *
 * {action} is newest (print the newest release's name), manifest (print its vm.json), signature (print its vm.json.minisig) or file (print the
 * file's bytes from {offset} on). Exit status 0: done, 3: there is no such release; anything else is a failure that is tried again, and the
 * last line of stderr says why. It is killed, with its process group, when the pull is cancelled, when it says nothing for stall_timeout,
 * and after the source's timeout. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/spawn.h"
#include "lib/base/strv.h"
#include "lib/images/source_kinds.h"
#include "lib/images/template.h"

enum { CHUNK = 256 * 1024, WORDS_MAX = 200, EXIT_NO_SUCH = 3, SIGNATURE_MAX = 8 * 1024, NAME_TEXT_MAX = 256 };

struct command {
    struct image_task *task;
    const struct image_source *source;
    pid_t pid;
    int out, err_fd;
    char words[WORDS_MAX]; /* the beginning of the last line it said on stderr */
    size_t n_words;
    bool line_ended;
    int (*data)(void *arg, const void *data, size_t len, struct err *err);
    void *arg;
};

static int spawn(struct command *c, char *const *argv)
{
    auto_fd int out_read = -1, out_write = -1, err_read = -1, err_write = -1;
    int out[2], err[2], r;

    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    out_read = out[0];
    out_write = out[1];
    if (pipe2(err, O_CLOEXEC) < 0)
        return -errno;
    err_read = err[0];
    err_write = err[1];
    const struct spawn_fd fds[] = { { .source = out_write, .target = STDOUT_FILENO }, { .source = err_write, .target = STDERR_FILENO } };
    const struct spawn how = {
        .path = argv[0], .argv = argv, .env = environ, .fds = fds, .n_fds = ARRAY_LEN(fds), .go_fd = -1, .new_group = true
    };

    r = spawn_child(&how, &c->pid);
    if (r < 0)
        return r;
    c->out = steal_fd(&out_read);
    c->err_fd = steal_fd(&err_read);
    (void)fd_set_nonblock(c->err_fd, true);
    return 0;
}

/* Keeps the beginning of the last line. */
static void take_words(struct command *c)
{
    char buffer[512];
    ssize_t n = read(c->err_fd, buffer, sizeof(buffer));

    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        c->err_fd = fd_close(c->err_fd);
    for (ssize_t i = 0; i < n; i++) {
        if (buffer[i] == '\n') {
            c->line_ended = true;
            continue;
        }
        if (c->line_ended)
            c->n_words = 0;
        c->line_ended = false;
        if (c->n_words < sizeof(c->words) - 1)
            c->words[c->n_words++] = buffer[i];
    }
    c->words[c->n_words] = '\0';
}

/* 1: the end of its output, 0: go on. */
static int take_data(struct command *c, char *buffer, struct err *err)
{
    ssize_t n = read(c->out, buffer, CHUNK);

    if (n < 0)
        return errno == EINTR ? 0 : err_set_errno(err, EAGAIN, "source", "%s", c->source->command[0]);
    return n == 0 ? 1 : c->data(c->arg, buffer, (size_t)n, err);
}

static int overdue(const struct command *c, const char *what, struct err *err)
{
    return err_set(err, EAGAIN, "source", "%s: %s, and was ended", c->source->command[0], what);
}

static int listen_to(struct command *c, struct err *err)
{
    auto_free char *buffer = malloc(CHUNK);
    uint64_t begun = clock_mono_us(), heard = begun;
    int r = buffer ? 0 : -ENOMEM;

    while (r == 0) {
        struct pollfd fds[] = { { .fd = c->out, .events = POLLIN },
                                { .fd = c->err_fd, .events = POLLIN },
                                { .fd = c->task->cancel_fd, .events = POLLIN } };
        uint64_t now = clock_mono_us(), quiet_ms = (now - heard) / 1000, all_ms = (now - begun) / 1000;

        if (image_task_is_cancelled(c->task))
            return image_task_cancelled(err);
        if (quiet_ms >= c->task->config->stall_timeout_ms)
            return overdue(c, "it says nothing any more", err);
        if (c->source->timeout_ms && all_ms >= c->source->timeout_ms)
            return overdue(c, "it takes longer than the source's timeout", err);
        uint64_t wait_ms = c->task->config->stall_timeout_ms - quiet_ms;

        if (c->source->timeout_ms && c->source->timeout_ms - all_ms < wait_ms)
            wait_ms = c->source->timeout_ms - all_ms;
        if (poll(fds, ARRAY_LEN(fds), (int)wait_ms) <= 0)
            continue;
        if (fds[1].revents)
            take_words(c);
        if (fds[0].revents) {
            r = take_data(c, buffer, err);
            heard = clock_mono_us(); /* after it was written, which may have been paced */
        }
    }
    return r < 0 ? r : 0;
}

/* Its end, whether by itself or not. What it left in its group goes with it. */
static int reap(struct command *c, int r, struct err *err)
{
    int status = 0;
    siginfo_t info;

    if (r < 0)
        (void)kill(-c->pid, SIGKILL);
    /* Its output is over, which is not yet its end. */
    while (r >= 0 && waitid(P_PID, (id_t)c->pid, &info, WEXITED | WNOWAIT | WNOHANG) == 0 && info.si_pid == 0)
        if (image_task_wait(c->task, 10) < 0) {
            (void)kill(-c->pid, SIGKILL);
            r = image_task_cancelled(err);
        }
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR)
        ;
    (void)kill(-c->pid, SIGKILL);
    if (c->err_fd >= 0)
        take_words(c);
    if (r < 0)
        return r;
    utf8_clean(c->words);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_NO_SUCH)
        return err_set(err, ENOENT, "source", "%s: %s", c->source->command[0], c->n_words ? c->words : "there is no such release");
    return err_set(err, EAGAIN, "source", "%s: it ended with %s %d%s%s", c->source->command[0], WIFEXITED(status) ? "status" : "signal",
                   WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), c->n_words ? ": " : "", c->words);
}

static int run(struct command *c, const struct template_value *values, size_t n, struct err *err)
{
    auto_strv struct strv argv = { 0 };
    int r = 0;

    for (char **word = c->source->command; *word && r >= 0; word++) {
        auto_free char *text = NULL;

        r = template_expand(*word, values, n, false, &text, err);
        if (r >= 0)
            strv_push(&argv, text);
    }
    if (r < 0 || argv.failed)
        return r < 0 ? r : -ENOMEM;
    r = spawn(c, strv_argv(&argv));
    if (r < 0)
        return err_set_errno(err, -r, "source", "can't run %s", c->source->command[0]);
    r = reap(c, listen_to(c, err), err);
    fd_close(c->out);
    fd_close(c->err_fd);
    return r;
}

/* ---- small answers ---- */

struct text {
    FILE *f;
    size_t len, limit;
    const char *command;
};

static int add_text(void *arg, const void *data, size_t len, struct err *err)
{
    struct text *t = arg;

    if (t->len + len > t->limit)
        return err_set(err, EFBIG, "source", "%s: it says more than %zu bytes", t->command, t->limit);
    t->len += len;
    return fwrite(data, 1, len, t->f) == len ? 0 : -ENOMEM;
}

static int ask(struct image_task *task, const struct image_source *source, const char *action, const char *version, size_t limit,
               char **ret_text, size_t *ret_len, struct err *err)
{
    const struct template_value values[] = { { "action", action }, { "name", source->name }, { "version", version }, { "role", NULL },
                                             { "bucket", NULL },   { "prefix", NULL },       { "filename", NULL },   { "offset", "0" } };
    auto_free char *text = NULL;
    size_t len = 0;
    struct text t = { .f = open_memstream(&text, &len), .limit = limit, .command = source->command[0] };
    struct command c = { .task = task, .source = source, .out = -1, .err_fd = -1, .data = add_text, .arg = &t };
    int r;

    if (!t.f)
        return -ENOMEM;
    r = run(&c, values, ARRAY_LEN(values), err);
    if (fclose(t.f) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0)
        return r;
    free(*ret_text);
    *ret_text = steal_ptr(&text);
    *ret_len = len;
    return 0;
}

static int command_newest(struct image_task *task, const struct image_source *source, char **ret_version, struct err *err)
{
    size_t len;
    int r = ask(task, source, "newest", NULL, NAME_TEXT_MAX, ret_version, &len, err);

    if (r == -ENOENT)
        return err_set(err, EIO, "source", "%s: it knows no release", source->command[0]);
    if (r >= 0)
        (*ret_version)[strcspn(*ret_version, "\r\n")] = '\0';
    return r;
}

static int command_manifest(struct image_task *task, const struct image_source *source, const char *version, char **ret_text,
                            size_t *ret_len, char **ret_signature, struct err *err)
{
    size_t len;
    int r = ask(task, source, "manifest", version, MANIFEST_TEXT_MAX, ret_text, ret_len, err);

    return r < 0 || !source->public_key ? r : ask(task, source, "signature", version, SIGNATURE_MAX, ret_signature, &len, err);
}

/* ---- files ---- */

static bool goes_on(const struct image_source *source)
{
    for (char **word = source->command; *word; word++)
        if (strstr(*word, "{offset}"))
            return true;
    return false;
}

static int deliver(void *arg, const void *data, size_t len, struct err *err) { return sink_write(arg, data, len, err); }

int source_command_fetch(struct image_task *task, const struct image_source *source, const char *version, const struct manifest_file *file,
                         struct sink *sink, struct err *err)
{
    struct command c = { .task = task, .source = source, .out = -1, .err_fd = -1, .data = deliver, .arg = sink };
    char offset[32];
    int r = sink_offset(sink) > 0 && !goes_on(source) ? sink_restart(sink, err) : 0;

    if (r < 0)
        return r;
    (void)snprintf(offset, sizeof(offset), "%llu", (unsigned long long)sink_offset(sink));
    const struct template_value values[] = { { "action", "file" },           { "name", source->name },   { "version", version },
                                             { "role", file->role },         { "bucket", file->bucket }, { "prefix", file->prefix },
                                             { "filename", file->filename }, { "offset", offset } };
    return run(&c, values, ARRAY_LEN(values), err);
}

const struct source_ops source_command = {
    .newest = command_newest, .manifest = command_manifest, .parse = source_parse_manifest, .fetch = source_command_fetch
};
