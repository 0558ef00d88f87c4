/* The end of a VM that nobody told of: explained exactly once. */
#include "lib/manager/down.h"

#include <check.h>

#include "tests/unit/fixture.h"

static const char boot[] = "11111111-1111-1111-1111-111111111111";
static const char old_boot[] = "22222222-2222-2222-2222-222222222222";

static struct records records;
static struct wanted wanted;

static void status(uint64_t incarnation, const char *boot_id, uint64_t seq)
{
    records.has_status = true;
    records.status.incarnation = incarnation;
    records.status.event_seq = seq;
    ck_assert_int_eq(str_set(&records.status.boot_id, boot_id), 0);
}

static void ended(uint64_t incarnation)
{
    records.has_exit = true;
    records.exit.incarnation = incarnation;
}

/* What down_explain() says; the exit in *ret_exit is the caller's when it is 1. */
static int explain(uint64_t known, bool may_relaunch, struct exit_record *ret_exit, bool *ret_rebooted)
{
    const struct down_facts facts = {
        .name = "web",
        .boot_id = boot,
        .records = &records,
        .wanted = &wanted,
        .incarnation = known,
        .event_seq = 10,
        .may_relaunch = may_relaunch,
    };
    int r = down_explain(&facts, ret_exit, ret_rebooted);

    records_clear(&records);
    wanted_clear(&wanted);
    return r;
}

START_TEST(nothing_to_explain)
{
    struct exit_record exit;
    bool rebooted;

    ck_assert_int_eq(explain(0, true, &exit, &rebooted), 0);
    status(3, boot, 20);
    ended(3);
    ck_assert_int_eq(explain(3, true, &exit, &rebooted), 0);
    ended(3);
    wanted.seen = 3;
    ck_assert_int_eq(explain(0, true, &exit, &rebooted), 0);
}
END_TEST

/* Records that don't parse are no base for a statement. */
START_TEST(unclear_explains_nothing)
{
    struct exit_record exit;
    bool rebooted;

    status(3, boot, 20);
    records.unclear = true;
    ck_assert_int_eq(explain(3, true, &exit, &rebooted), 0);
}
END_TEST

START_TEST(both_died)
{
    auto_exit struct exit_record exit = { 0 };
    bool rebooted = true;

    status(4, boot, 20);
    ended(3);
    ck_assert_int_eq(explain(0, true, &exit, &rebooted), 1);
    ck_assert_uint_eq(exit.incarnation, 4);
    ck_assert_int_eq(exit.kind, EXIT_UNKNOWN);
    ck_assert_int_eq(exit.code, -1);
    ck_assert(!exit.final);
    ck_assert(!rebooted);
    ck_assert_uint_eq(exit.event_seq, 21);
    ck_assert_str_eq(exit.name, "web");
}
END_TEST

START_TEST(both_died_for_good)
{
    auto_exit struct exit_record exit = { 0 };
    bool rebooted = true;

    status(4, boot, 20);
    ck_assert_int_eq(explain(0, false, &exit, &rebooted), 1);
    ck_assert(exit.final);
}
END_TEST

/* After a reboot it goes on whatever its policy, and whether or not the run folder is still there. */
START_TEST(host_rebooted)
{
    auto_exit struct exit_record first = { 0 };
    auto_exit struct exit_record second = { 0 };
    bool rebooted = false;

    status(4, old_boot, 20);
    ck_assert_int_eq(explain(0, false, &first, &rebooted), 1);
    ck_assert(rebooted);
    ck_assert(!first.final);

    wanted.seen = 7;
    ck_assert_int_eq(str_set(&wanted.seen_boot, old_boot), 0);
    ended(6);
    ck_assert_int_eq(explain(0, false, &second, &rebooted), 1);
    ck_assert(rebooted);
    ck_assert_uint_eq(second.incarnation, 7);
    ck_assert_uint_eq(second.event_seq, 11);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, nothing_to_explain);
    tcase_add_test(tc, unclear_explains_nothing);
    tcase_add_test(tc, both_died);
    tcase_add_test(tc, both_died_for_good);
    tcase_add_test(tc, host_rebooted);
}

int main(void) { return fixture_main("down", add_tests); }
