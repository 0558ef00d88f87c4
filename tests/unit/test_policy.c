#include "shim/policy.h"

#include <check.h>
#include <signal.h>

#include "lib/base/util.h"

#define EXITED(code) ((code) << 8)

static const struct {
    struct ending ending;
    struct exit_cause cause;
} causes[] = {
    /* the guest's own doing */
    { { true, EXITED(0), "guest-shutdown", false, false }, { EXIT_GUEST_SHUTDOWN, 0, 0 } },
    { { true, EXITED(0), "guest-reset", false, false }, { EXIT_GUEST_RESET, 0, 0 } },
    { { true, EXITED(0), "guest-panic", false, false }, { EXIT_GUEST_PANIC, 0, 0 } },
    /* ours */
    { { true, EXITED(0), "guest-shutdown", true, false }, { EXIT_STOPPED, 0, 0 } },
    { { true, EXITED(0), "host-qmp-quit", true, false }, { EXIT_STOPPED, 0, 0 } },
    { { true, EXITED(0), "host-signal", true, true }, { EXIT_STOPPED, 0, 0 } },
    { { true, SIGKILL, NULL, true, true }, { EXIT_STOPPED, -1, SIGKILL } },
    { { true, EXITED(0), NULL, true, false }, { EXIT_STOPPED, 0, 0 } },
    /* somebody else's */
    { { true, EXITED(0), "host-qmp-quit", false, false }, { EXIT_STOPPED, 0, 0 } },
    { { true, EXITED(0), "host-signal", false, false }, { EXIT_SIGNAL, 0, SIGTERM } },
    { { true, SIGKILL, NULL, false, false }, { EXIT_SIGNAL, -1, SIGKILL } },
    { { true, SIGSEGV | 0x80, NULL, false, false }, { EXIT_SIGNAL, -1, SIGSEGV } },
    /* a crash while stopping is a crash, unless we sent the signal */
    { { true, SIGSEGV, NULL, true, false }, { EXIT_SIGNAL, -1, SIGSEGV } },
    /* a guest that asked to shut down, and QEMU crashed on the way */
    { { true, SIGABRT, "guest-shutdown", false, false }, { EXIT_SIGNAL, -1, SIGABRT } },
    { { true, EXITED(1), NULL, false, false }, { EXIT_CODE, 1, 0 } },
    { { true, EXITED(1), "guest-shutdown", false, false }, { EXIT_CODE, 1, 0 } },
    { { true, EXITED(1), NULL, true, false }, { EXIT_CODE, 1, 0 } },
    { { true, EXITED(0), NULL, false, false }, { EXIT_CODE, 0, 0 } },
    /* adopted, and the kernel doesn't say: never an invented 0 */
    { { false, 0, NULL, false, false }, { EXIT_UNKNOWN, -1, 0 } },
    { { false, 0, "guest-shutdown", false, false }, { EXIT_GUEST_SHUTDOWN, -1, 0 } },
    { { false, 0, NULL, true, true }, { EXIT_STOPPED, -1, 0 } },
    { { false, 0, NULL, true, false }, { EXIT_UNKNOWN, -1, 0 } },
    { { true, EXITED(0), "a reason of tomorrow", false, false }, { EXIT_CODE, 0, 0 } },
};

START_TEST(cause_of_each_ending)
{
    struct exit_cause cause = policy_cause(&causes[_i].ending);

    ck_assert_int_eq(cause.kind, causes[_i].cause.kind);
    ck_assert_int_eq(cause.code, causes[_i].cause.code);
    ck_assert_int_eq(cause.signal, causes[_i].cause.signal);
}
END_TEST

#define R VERDICT_RESTART
#define E VERDICT_ENDED
#define F VERDICT_FAILED
static const struct {
    struct exit_cause cause;
    enum verdict by_policy[3]; /* never, on-failure, always */
} verdicts[] = {
    { { EXIT_GUEST_SHUTDOWN, 0, 0 }, { [RESTART_NEVER] = E, [RESTART_ON_FAILURE] = E, [RESTART_ALWAYS] = R } },
    { { EXIT_STOPPED, 0, 0 }, { [RESTART_NEVER] = E, [RESTART_ON_FAILURE] = E, [RESTART_ALWAYS] = E } },
    { { EXIT_CODE, 0, 0 }, { [RESTART_NEVER] = E, [RESTART_ON_FAILURE] = E, [RESTART_ALWAYS] = R } },
    { { EXIT_CODE, 1, 0 }, { [RESTART_NEVER] = F, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
    { { EXIT_GUEST_RESET, 0, 0 }, { [RESTART_NEVER] = E, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
    { { EXIT_GUEST_PANIC, 0, 0 }, { [RESTART_NEVER] = F, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
    { { EXIT_SIGNAL, -1, 9 }, { [RESTART_NEVER] = F, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
    { { EXIT_OOM, -1, 9 }, { [RESTART_NEVER] = F, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
    { { EXIT_UNKNOWN, -1, 0 }, { [RESTART_NEVER] = F, [RESTART_ON_FAILURE] = R, [RESTART_ALWAYS] = R } },
};

START_TEST(verdict_of_each_cause)
{
    for (int policy = RESTART_NEVER; policy <= RESTART_ALWAYS; policy++) {
        struct backoff b = { .delay_ms = 1000, .max_delay_ms = 60000, .max_attempts = 2 };
        enum verdict wanted = verdicts[_i].by_policy[policy];
        struct exit_cause cause = verdicts[_i].cause;
        uint64_t delay = 0;

        ck_assert_int_eq(policy_verdict((enum restart_policy)policy, cause, false, &b, 0, &delay), wanted);
        ck_assert_int_eq(b.attempt, wanted == R ? 1 : 0);
        ck_assert(wanted != R || (delay >= 900 && delay <= 1100));
        /* the budget: one more, then none */
        if (wanted == R) {
            ck_assert_int_eq(policy_verdict((enum restart_policy)policy, cause, false, &b, 0, &delay), R);
            ck_assert(delay >= 1800 && delay <= 2200);
            ck_assert_int_eq(policy_verdict((enum restart_policy)policy, cause, false, &b, 0, &delay), F);
        }
        /* what was asked to stop isn't started again, whatever it died of */
        b.attempt = 0;
        ck_assert_int_eq(policy_verdict((enum restart_policy)policy, cause, true, &b, 0, &delay), E);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("policy");
    TCase *t = tcase_create("policy");
    SRunner *r;
    int failed;

    tcase_add_loop_test(t, cause_of_each_ending, 0, (int)ARRAY_LEN(causes));
    tcase_add_loop_test(t, verdict_of_each_cause, 0, (int)ARRAY_LEN(verdicts));
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
