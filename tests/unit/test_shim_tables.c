/* The shim's tables: every name there and unique, every state reachable, every state with a way out, and the ring of events. */
#include <check.h>
#include <errno.h>

#include "shim/events.h"
#include "shim/vm.h"

static void check_names(const struct enum_names *e)
{
    for (size_t i = 0; i < e->n; i++) {
        ck_assert_ptr_nonnull(e->names[i]);
        ck_assert_int_eq(enum_from_string(e, e->names[i]), (int)i);
    }
    ck_assert_int_lt(enum_from_string(e, "no such name"), 0);
    ck_assert_str_eq(enum_to_string(e, (int)e->n), "?");
    ck_assert_str_eq(enum_to_string(e, -1), "?");
}

START_TEST(names_round_trip)
{
    check_names(&vm_event_names);
    check_names(&event_type_names);
    ck_assert_uint_eq(vm_event_names.n, VM_EVENT_COUNT);
}
END_TEST

START_TEST(every_state_can_be_reached)
{
    bool reached[STATE_COUNT] = { [STATE_PREPARING] = true };

    for (int rounds = 0; rounds < STATE_COUNT; rounds++)
        for (int s = 0; s < STATE_COUNT; s++)
            for (int e = 0; reached[s] && e < VM_EVENT_COUNT; e++)
                if (vm_would_become((enum vm_state)s, (enum vm_event)e) >= 0)
                    reached[vm_would_become((enum vm_state)s, (enum vm_event)e)] = true;
    for (int s = 0; s < STATE_COUNT; s++)
        ck_assert_msg(reached[s], "state %s can't be reached", enum_to_string(&vm_state_names, s));
}
END_TEST

START_TEST(stop_means_something_everywhere)
{
    for (int s = 0; s < STATE_COUNT; s++)
        ck_assert_int_ge(vm_would_become((enum vm_state)s, VM_STOP), 0);
}
END_TEST

START_TEST(the_end_is_the_end)
{
    for (int e = 0; e < VM_EVENT_COUNT; e++) {
        int exited = vm_would_become(STATE_EXITED, (enum vm_event)e), failed = vm_would_become(STATE_FAILED, (enum vm_event)e);

        ck_assert(exited == -EPERM || exited == STATE_EXITED);
        ck_assert(failed == -EPERM || failed == STATE_FAILED);
    }
}
END_TEST

START_TEST(a_stopping_vm_is_not_started_again)
{
    ck_assert_int_eq(vm_would_become(STATE_STOPPING, VM_GO), -EPERM);
    ck_assert_int_eq(vm_would_become(STATE_STOPPING, VM_PREPARED), -EPERM);
    /* Only when a probe wanted the stop it comes again, and that by way of the back-off. */
    ck_assert_int_eq(vm_would_become(STATE_STOPPING, VM_RETRY), STATE_BACKOFF);
    ck_assert_int_eq(vm_would_become(STATE_STOPPING, VM_RESUMED), STATE_STOPPING);
    ck_assert_int_eq(vm_would_become(STATE_STOPPING, VM_ENDED), STATE_EXITED);
}
END_TEST

START_TEST(ring_numbers_without_gaps)
{
    struct event_ring *ring = calloc(1, sizeof(*ring));
    const struct event *e;

    event_ring_init(ring, 41);
    ck_assert_ptr_null(event_ring_after(ring, 0));
    for (uint64_t i = 0; i < EVENTS_KEPT + 10; i++)
        ck_assert_uint_eq(event_ring_add_consume(ring, EVENT_STATE, 1, "x", json_object())->seq, 42 + i);
    ck_assert_uint_eq(ring->first_seq, 42 + 10);
    ck_assert_uint_eq(event_ring_after(ring, 0)->seq, 52);
    ck_assert_uint_eq(event_ring_after(ring, 60)->seq, 61);
    ck_assert_ptr_null(event_ring_after(ring, 41 + EVENTS_KEPT + 10));
    uint64_t n = 0, since = 51;
    while ((e = event_ring_after(ring, since))) {
        ck_assert_uint_eq(e->seq, since + 1);
        since = e->seq;
        n++;
    }
    ck_assert_uint_eq(n, EVENTS_KEPT);
    event_ring_clear(ring);
    free(ring);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("shim tables");
    TCase *t = tcase_create("tables");
    SRunner *r;
    int failed;

    tcase_add_test(t, names_round_trip);
    tcase_add_test(t, every_state_can_be_reached);
    tcase_add_test(t, stop_means_something_everywhere);
    tcase_add_test(t, the_end_is_the_end);
    tcase_add_test(t, a_stopping_vm_is_not_started_again);
    tcase_add_test(t, ring_numbers_without_gaps);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
