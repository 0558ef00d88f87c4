/* Forwards of a running QEMU. QMP has no command for them, so they go through the human monitor, which answers in words: QEMU net/slirp.c,
 * hmp_hostfwd_add() and hmp_hostfwd_remove(). The listening is done by QEMU, as its user. */
#include <ctype.h>
#include <errno.h>

#include "lib/base/failpoint.h"
#include "lib/base/json.h"
#include "shim/update.h"
#include "shim/vm.h"

/* The words of hmp_hostfwd_remove(). */
#define NOT_FOUND "not found"
#define REMOVED "removed"

static bool is_plain(const char *word)
{
    return *word && word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:-_")] == '\0';
}

bool update_steps_are_plain(const struct plan_diff *diff)
{
    for (size_t i = 0; i < diff->n_steps; i++)
        if (!is_plain(diff->steps[i].netdev) || !is_plain(diff->steps[i].rule))
            return false;
    return true;
}

/* A rule is taken away by its host's side: "tcp:127.0.0.1:8080". */
static int send(struct update *u, const struct forward_step *step, bool add, void (*answered)(void *arg, const struct qmp_result *r))
{
    auto_free char *line = NULL;
    auto_json json_t *arguments = NULL;
    int host_len = (int)strcspn(step->rule, "-");

    if (add ? str_format(&line, "hostfwd_add %s %s", step->netdev, step->rule) < 0
            : str_format(&line, "hostfwd_remove %s %.*s", step->netdev, host_len, step->rule) < 0)
        return -ENOMEM;
    arguments = json_pack("{s:s}", "command-line", line);
    if (!arguments)
        return -ENOMEM;
    if (!u->vm->qemu.qmp || !u->vm->qemu.qmp_ready)
        return -ENOTCONN;
    return qmp_client_call(u->vm->qemu.qmp, "human-monitor-command", arguments, QMP_TIMEOUT_MS, answered, u);
}

/* What went wrong, in the monitor's words without their line ends; NULL: nothing. "Not found" is what a removal wants. */
static const char *complaint(const struct qmp_result *r, bool add, char buf[ERR_TEXT_MAX])
{
    const char *said;
    size_t len;

    if (r->failure != 0)
        return r->text;
    said = json_string_value(json_object_get(r->reply, "return"));
    if (!said || !*said || (!add && (strstr(said, REMOVED) || strstr(said, NOT_FOUND))))
        return NULL;
    len = strlen(said);
    while (len > 0 && isspace((unsigned char)said[len - 1]))
        len--;
    (void)snprintf(buf, ERR_TEXT_MAX, "%.*s", (int)len, said);
    return buf;
}

/* ---- taking steps back ---- */

static void on_undone(void *arg, const struct qmp_result *r)
{
    struct update *u = arg;

    u->unsure = u->unsure || r->failure == -ETIMEDOUT || r->failure == -ECONNRESET;
    if (--u->undoing > 0)
        return;
    if (u->abandoned)
        update_free(u);
    else
        update_failed(u);
}

static void on_given_back(void *arg, const struct qmp_result *r)
{
    struct update *u = arg;
    char buf[ERR_TEXT_MAX];
    const char *why = complaint(r, true, buf);

    if (why && !u->abandoned && r->failure != -ECONNRESET)
        vm_tell(u->vm, EVENT_SHIM, NULL, "a forward that was there before could not be given back: %s", why);
    on_undone(arg, r);
}

/* To take away first makes it the same whether it was there or not. */
static void undo_step(struct update *u, const struct forward_step *step)
{
    if (send(u, step, false, on_undone) >= 0)
        u->undoing++;
    if (!step->add && send(u, step, true, on_given_back) >= 0)
        u->undoing++;
}

void update_undo(struct update *u, size_t n)
{
    u->undoing = 1; /* us, until all is sent */
    while (n > 0)
        undo_step(u, &u->diff.steps[--n]);
    if (--u->undoing == 0)
        update_failed(u);
}

/* ---- taking steps ---- */

static void fail(struct update *u, size_t n, int code, const char *why)
{
    const struct forward_step *step = &u->diff.steps[u->done];

    u->unsure = code == ECONNRESET;
    (void)err_set(&u->err, code, code == ETIMEDOUT ? "timed-out" : "no-forward", "%s can't %s the forward %s: %s%s", u->vm->plan.name,
                  step->add ? "be given" : "lose", step->rule, why, step->add && code == EREMOTEIO ? " (is the port taken?)" : "");
    update_undo(u, n);
}

static void on_step(void *arg, const struct qmp_result *r)
{
    struct update *u = arg;
    char buf[ERR_TEXT_MAX];
    const char *why = complaint(r, u->diff.steps[u->done].add, buf);

    if (u->abandoned) {
        update_free(u);
    } else if (r->failure == -ECONNRESET) {
        fail(u, 0, ECONNRESET, why); /* QEMU has gone, or has hung up: there is nobody to tell it to */
    } else if (r->failure == -ETIMEDOUT) {
        fail(u, u->done + 1, ETIMEDOUT, why); /* QEMU may still do it, and obeys in order */
    } else if (why) {
        fail(u, u->done, EREMOTEIO, why);
    } else {
        u->done++;
        FAILPOINT("shim.update-after-step");
        update_forward(u);
    }
}

void update_forward(struct update *u)
{
    const struct forward_step *step = &u->diff.steps[u->done];
    int r;

    if (u->done == u->diff.n_steps) {
        update_forwarded(u);
        return;
    }
    r = send(u, step, step->add, on_step);
    if (r < 0)
        fail(u, u->done, -r, strerror(-r));
}
