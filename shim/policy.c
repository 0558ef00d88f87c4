#include "shim/policy.h"

#include <signal.h>
#include <sys/wait.h>

#include "lib/base/util.h"

struct cause_row {
    const char *reason;
    enum exit_kind kind;
    int64_t signal;
};

/* ShutdownCause → kind. What isn't listed (host-error, snapshot-load …) is judged by the exit status. */
static const struct cause_row cause_rows[] = {
    { "guest-shutdown", EXIT_GUEST_SHUTDOWN, 0 }, { "guest-reset", EXIT_GUEST_RESET, 0 },           { "guest-panic", EXIT_GUEST_PANIC, 0 },
    { "host-qmp-quit", EXIT_STOPPED, 0 },         { "host-qmp-system-reset", EXIT_GUEST_RESET, 0 }, { "host-signal", EXIT_SIGNAL, SIGTERM },
};

static struct exit_cause cause_by_reason(const char *reason)
{
    for (size_t i = 0; reason && i < ARRAY_LEN(cause_rows); i++)
        if (streq(cause_rows[i].reason, reason))
            return (struct exit_cause){ cause_rows[i].kind, -1, cause_rows[i].signal };
    return (struct exit_cause){ EXIT_UNKNOWN, -1, 0 };
}

struct exit_cause policy_cause(const struct ending *e)
{
    struct exit_cause cause = cause_by_reason(e->reason);

    if (e->status_known && WIFSIGNALED(e->wstatus)) {
        cause.kind = e->killed_by_us ? EXIT_STOPPED : EXIT_SIGNAL;
        cause.signal = WTERMSIG(e->wstatus);
        return cause;
    }
    if (e->status_known && WIFEXITED(e->wstatus)) {
        cause.code = WEXITSTATUS(e->wstatus);
        if (cause.code != 0 || cause.kind == EXIT_UNKNOWN)
            cause.kind = e->stop_asked && cause.code == 0 ? EXIT_STOPPED : EXIT_CODE;
    }
    if (e->stop_asked &&
        (cause.kind == EXIT_GUEST_SHUTDOWN || cause.kind == EXIT_SIGNAL || (cause.kind == EXIT_UNKNOWN && e->killed_by_us))) {
        cause.kind = EXIT_STOPPED;
        cause.signal = 0;
    }
    return cause;
}

static bool is_failure(struct exit_cause cause)
{
    switch (cause.kind) {
    case EXIT_GUEST_SHUTDOWN:
    case EXIT_STOPPED:
        return false;
    case EXIT_CODE:
        return cause.code != 0;
    case EXIT_GUEST_RESET: /* a QEMU that exits on reset was told to; the guest wants to come back */
    case EXIT_GUEST_PANIC:
    case EXIT_SIGNAL:
    case EXIT_OOM:
    case EXIT_UNKNOWN:
        return true;
    }
    return true;
}

enum verdict policy_restart(struct backoff *b, uint32_t random, uint64_t *ret_delay_ms)
{
    return backoff_next(b, random, ret_delay_ms) ? VERDICT_RESTART : VERDICT_FAILED;
}

enum verdict policy_verdict(enum restart_policy policy, struct exit_cause cause, bool stop_asked, struct backoff *b, uint32_t random,
                            uint64_t *ret_delay_ms)
{
    bool failure = is_failure(cause);

    if (stop_asked || cause.kind == EXIT_STOPPED)
        return VERDICT_ENDED;
    if (policy == RESTART_NEVER || (policy == RESTART_ON_FAILURE && !failure))
        return failure && cause.kind != EXIT_GUEST_RESET ? VERDICT_FAILED : VERDICT_ENDED;
    return policy_restart(b, random, ret_delay_ms);
}
