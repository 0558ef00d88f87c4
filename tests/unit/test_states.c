#include "proto/states.h"

#include "tests/unit/fixture.h"

static const struct {
    const struct enum_names *names;
    size_t n;
} tables[] = {
    { &vm_state_names, STATE_COUNT },
    { &vm_view_names, VIEW_COUNT },
    { &vm_wanted_names, WANTED_RUNNING + 1 },
    { &vm_health_names, HEALTH_UNHEALTHY + 1 },
    { &exit_kind_names, EXIT_OOM + 1 },
    { &restart_policy_names, RESTART_ALWAYS + 1 },
    { &rung_kind_names, RUNG_CGROUP + 1 },
    { &probe_kind_names, PROBE_CONSOLE + 1 },
    { &health_action_names, HEALTH_ACTION_RESET + 1 },
    { &file_kind_names, FILE_IN_USE + 1 },
    { &restore_mode_names, RESTORE_EAGER + 1 },
};

START_TEST(every_table_is_whole_and_round_trips)
{
    for (size_t t = 0; t < ARRAY_LEN(tables); t++) {
        const struct enum_names *names = tables[t].names;
        ck_assert_uint_eq(names->n, tables[t].n);
        for (size_t i = 0; i < names->n; i++) {
            ck_assert_msg(names->names[i] != NULL, "hole in the table of %s", names->what);
            ck_assert_str_eq(enum_to_string(names, (int)i), names->names[i]);
            ck_assert_int_eq(enum_from_string(names, names->names[i]), (int)i);
        }
        ck_assert_str_eq(enum_to_string(names, (int)names->n), "?");
    }
}
END_TEST

START_TEST(a_view_of_a_state_is_the_state)
{
    for (int state = 0; state < STATE_COUNT; state++)
        ck_assert_str_eq(enum_to_string(&vm_view_names, state), enum_to_string(&vm_state_names, state));
}
END_TEST

/* On disk and on the wire for months: changing one of these is breaking somebody. */
START_TEST(names_are_the_documented_ones)
{
    static const char *const views[] = {
        "preparing", "launching", "restoring", "running", "paused",       "stopping", "backoff",
        "exited",    "failed",    "stopped",   "unknown", "unresponsive", "orphaned",
    };
    for (size_t i = 0; i < ARRAY_LEN(views); i++)
        ck_assert_str_eq(enum_to_string(&vm_view_names, (int)i), views[i]);
    static const char *const kinds[] = { "unknown", "guest-shutdown", "guest-reset", "guest-panic", "stopped", "code", "signal", "oom" };
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        ck_assert_str_eq(enum_to_string(&exit_kind_names, (int)i), kinds[i]);
    ck_assert_str_eq(enum_to_string(&restart_policy_names, RESTART_ON_FAILURE), "on-failure");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, every_table_is_whole_and_round_trips);
    tcase_add_test(tc, a_view_of_a_state_is_the_state);
    tcase_add_test(tc, names_are_the_documented_ones);
}

int main(void) { return fixture_main("states", add_tests); }
