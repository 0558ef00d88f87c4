/* Pure decisions: why did QEMU end, and what follows. Tested by table in tests/unit/test_policy.c. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/backoff.h"
#include "proto/states.h"

struct ending {
    bool status_known;
    int wstatus;        /* as of wait(2), when known */
    const char *reason; /* `reason` of QMP's last SHUTDOWN event (QEMU qapi/run-state.json, ShutdownCause), NULL: none came */
    bool stop_asked;    /* a stop or kill was asked for */
    bool killed_by_us;  /* and the ladder or the kill has sent a deadly signal */
};

struct exit_cause {
    enum exit_kind kind;
    int64_t code;   /* -1: none */
    int64_t signal; /* 0: none */
};

/* QEMU exits 0 on SIGTERM and on `quit`, so the SHUTDOWN reason comes before the exit status; a deadly signal nobody here sent, and a
 * status that isn't 0, come before both. */
struct exit_cause policy_cause(const struct ending *e);

enum verdict {
    VERDICT_ENDED,   /* final, nothing is wrong */
    VERDICT_FAILED,  /* final, a failure: no policy or no attempts left */
    VERDICT_RESTART, /* after *ret_delay_ms */
};

/* Restart as long as the budget lasts, whatever the policy says about exits: what a health probe's action "restart" means. */
enum verdict policy_restart(struct backoff *b, uint32_t random, uint64_t *ret_delay_ms);

enum verdict policy_verdict(enum restart_policy policy, struct exit_cause cause, bool stop_asked, struct backoff *b, uint32_t random,
                            uint64_t *ret_delay_ms);
