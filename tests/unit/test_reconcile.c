/* The decision, cell by cell. */
#include "lib/manager/reconcile.h"

#include <check.h>

#include "lib/base/util.h"

#define GONE .presence = PRESENCE_GONE
#define SHIM(s) .presence = PRESENCE_SHIM, .answered = true, .state = (s)
#define RUN(n) .wish = WANTED_RUNNING, .from = (n), .saved = true, .has_spec = true
#define STOP .wish = WANTED_STOPPED, .saved = true, .has_spec = true
#define AT(n) .incarnation = (n)
#define ENDED(is_final) .exit_known = true, .exit_final = (is_final)

static const struct {
    const char *what;
    struct facts facts;
    enum action action;
} cases[] = {
    /* nothing lives */
    { "never started", { GONE, RUN(1), AT(0) }, ACTION_LAUNCH },
    { "started again after its end", { GONE, RUN(4), AT(3), ENDED(true) }, ACTION_LAUNCH },
    { "the guest powered itself off: its right", { GONE, RUN(3), AT(3), ENDED(true) }, ACTION_NONE },
    { "died with its shim, more was to come", { GONE, RUN(3), AT(3), ENDED(false) }, ACTION_LAUNCH },
    { "the shim restarted it, then both died", { GONE, RUN(3), AT(5), ENDED(false) }, ACTION_LAUNCH },
    { "its end is not known yet", { GONE, RUN(3), AT(3) }, ACTION_NONE },
    { "restart cut in two: the old one is gone", { GONE, RUN(4), AT(3), ENDED(true) }, ACTION_LAUNCH },
    { "a launch doesn't wait for the disk", { GONE, .wish = WANTED_RUNNING, .from = 1, .has_spec = true }, ACTION_LAUNCH },
    { "a restore does", { GONE, .wish = WANTED_RUNNING, .from = 1, .has_spec = true, .restore_due = true }, ACTION_NONE },
    { "to be restored", { GONE, RUN(1), .restore_due = true }, ACTION_LAUNCH },
    { "its restore failed: not booted instead", { GONE, RUN(3), AT(3), ENDED(false), .restore_open = true }, ACTION_NONE },
    { "booted after a restore that failed", { GONE, RUN(4), AT(3), ENDED(true) }, ACTION_LAUNCH },
    { "no spec, nothing to start", { GONE, .wish = WANTED_RUNNING, .from = 1, .saved = true }, ACTION_NONE },
    { "records that don't parse start nothing", { GONE, RUN(1), .unclear = true }, ACTION_NONE },
    { "gave up", { GONE, RUN(4), AT(3), ENDED(true), .gave_up = true }, ACTION_NONE },
    { "the host is being drained", { GONE, RUN(4), AT(3), ENDED(true), .draining = true }, ACTION_NONE },
    { "drained, to be deleted", { GONE, STOP, AT(3), .deleting = true, .draining = true }, ACTION_FORGET },
    { "launching already", { GONE, RUN(1), .launching = true }, ACTION_NONE },
    { "stopped and wished so", { GONE, STOP, AT(3), ENDED(true) }, ACTION_NONE },
    { "stopped, though more was to come", { GONE, STOP, AT(3), ENDED(false) }, ACTION_NONE },
    { "to be deleted", { GONE, STOP, AT(3), ENDED(true), .deleting = true }, ACTION_FORGET },
    { "to be deleted, not on disk yet", { GONE, .wish = WANTED_STOPPED, .deleting = true, .has_spec = true }, ACTION_NONE },
    { "to be deleted, records don't parse", { GONE, STOP, .deleting = true, .unclear = true }, ACTION_FORGET },
    { "records being read", { .presence = PRESENCE_CHECKING, RUN(1) }, ACTION_NONE },
    { "records being read, to be deleted", { .presence = PRESENCE_CHECKING, STOP, .deleting = true }, ACTION_NONE },

    /* orphaned */
    { "lost its shim", { .presence = PRESENCE_ORPHAN, RUN(3), AT(3) }, ACTION_ADOPT },
    { "lost its shim, to be stopped", { .presence = PRESENCE_ORPHAN, STOP, AT(3) }, ACTION_ADOPT },
    { "lost its shim, being adopted", { .presence = PRESENCE_ORPHAN, RUN(3), AT(3), .launching = true }, ACTION_NONE },
    { "lost its shim, adopted in vain", { .presence = PRESENCE_ORPHAN, RUN(3), AT(3), .adopt_later = true }, ACTION_NONE },

    /* supervised, and as wished */
    { "runs", { SHIM(STATE_RUNNING), RUN(3), AT(3) }, ACTION_NONE },
    { "runs, restarted by its shim", { SHIM(STATE_RUNNING), RUN(3), AT(5) }, ACTION_NONE },
    { "being stopped by somebody else", { SHIM(STATE_STOPPING), RUN(3), AT(3) }, ACTION_NONE },
    { "in back-off", { SHIM(STATE_BACKOFF), RUN(3), AT(3) }, ACTION_NONE },

    /* supervised, and to come down */
    { "to be stopped", { SHIM(STATE_RUNNING), STOP, AT(3) }, ACTION_STOP },
    { "to be stopped while it prepares", { SHIM(STATE_PREPARING), STOP, AT(3) }, ACTION_STOP },
    { "to be stopped in back-off", { SHIM(STATE_BACKOFF), STOP, AT(3) }, ACTION_STOP },
    { "to be restarted", { SHIM(STATE_RUNNING), RUN(4), AT(3) }, ACTION_STOP },
    { "drained, wished for the next boot", { SHIM(STATE_RUNNING), RUN(4), AT(3), .draining = true }, ACTION_STOP },
    { "asked already", { SHIM(STATE_RUNNING), STOP, AT(3), .stop_sent = 3 }, ACTION_NONE },
    { "asked, but another incarnation runs by now", { SHIM(STATE_RUNNING), STOP, AT(4), .stop_sent = 3 }, ACTION_STOP },
    { "asked again, harder", { SHIM(STATE_STOPPING), STOP, AT(3), .stop_sent = 3, .stop_due = true }, ACTION_STOP },
    { "found stopping by the next manager", { SHIM(STATE_STOPPING), STOP, AT(3) }, ACTION_NONE },
    { "leaving by itself", { SHIM(STATE_EXITED), STOP, AT(3), .stop_due = true }, ACTION_NONE },
    { "leaving by itself, failed", { SHIM(STATE_FAILED), RUN(4), AT(3), .stop_due = true }, ACTION_NONE },
    { "no stop before the wish is on disk", { SHIM(STATE_RUNNING), .wish = WANTED_STOPPED, AT(3) }, ACTION_NONE },
    { "no restart before the wish is on disk", { SHIM(STATE_RUNNING), .wish = WANTED_RUNNING, .from = 4, AT(3) }, ACTION_NONE },
    { "to be deleted", { SHIM(STATE_RUNNING), STOP, AT(3), .deleting = true }, ACTION_STOP },

    /* what is not known is left alone */
    { "doesn't answer", { .presence = PRESENCE_SHIM, STOP, AT(3), .stop_due = true }, ACTION_NONE },
    { "doesn't answer, to be restarted", { .presence = PRESENCE_SHIM, RUN(4), AT(3) }, ACTION_NONE },
};

START_TEST(decision)
{
    ck_assert_msg(decide(&cases[_i].facts) == cases[_i].action, "%s: action %d, expected %d", cases[_i].what, (int)decide(&cases[_i].facts),
                  (int)cases[_i].action);
}
END_TEST

/* Whatever the facts: without a shim that answers nothing is stopped, and with anything alive nothing is launched or forgotten. */
START_TEST(never_harmful)
{
    for (unsigned bits = 0; bits < 1u << 12; bits++) {
        for (int presence = PRESENCE_GONE; presence <= PRESENCE_ORPHAN; presence++) {
            const struct facts facts = {
                .presence = (enum presence)presence,
                .launching = bits & 1,
                .wish = bits & 2 ? WANTED_RUNNING : WANTED_STOPPED,
                .from = bits & 4 ? 4 : 3,
                .deleting = bits & 8,
                .saved = bits & 16,
                .has_spec = bits & 32,
                .unclear = bits & 64,
                .gave_up = bits & 128,
                .incarnation = 3,
                .answered = bits & 256,
                .state = STATE_RUNNING,
                .stop_due = bits & 512,
                .exit_known = bits & 1024,
                .exit_final = bits & 2048,
            };
            enum action action = decide(&facts);

            if (presence != PRESENCE_GONE || facts.launching)
                ck_assert(action != ACTION_LAUNCH && action != ACTION_FORGET);
            if (presence != PRESENCE_SHIM || !facts.answered || !facts.saved)
                ck_assert(action != ACTION_STOP);
            if (facts.wish == WANTED_STOPPED)
                ck_assert(action != ACTION_LAUNCH);
            if (!facts.deleting)
                ck_assert(action != ACTION_FORGET);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("reconcile");
    TCase *tc = tcase_create("reconcile");
    SRunner *runner;
    int failed;

    tcase_add_loop_test(tc, decision, 0, ARRAY_LEN(cases));
    tcase_add_test(tc, never_harmful);
    suite_add_tcase(suite, tc);
    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
