/* What of the pager needs no guest. */
#include <sys/mman.h>

#include "shim/memory/latency.h"
#include "shim/memory/pager_state.h"
#include "shim/memory/pressure.h"
#include "shim/memory/recorder.h"
#include "tests/unit/fixture.h"

START_TEST(settles_when_quiet)
{
    struct settle s = { 0 };
    uint64_t at = 0;

    /* Nothing yet: that isn't quiet. */
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(settle_tick(&s, at += 100, 0), SETTLING);
    /* A burst, which ebbs away. */
    ck_assert_int_eq(settle_tick(&s, at += 100, 640), SETTLING);
    for (uint64_t i = 1; i <= 5; i++)
        ck_assert_int_eq(settle_tick(&s, at += 100, 640 + 100 * i), SETTLING);
    ck_assert_int_eq(settle_tick(&s, at += 100, 1150), SETTLING);
    ck_assert_int_eq(settle_tick(&s, at += 100, 1160), SETTLING);
    ck_assert_int_eq(settle_tick(&s, at += 100, 1180), SETTLED);
}
END_TEST

START_TEST(settles_not_too_soon)
{
    struct settle s = { 0 };

    for (uint64_t at = 100; at < 600; at += 100)
        ck_assert_int_eq(settle_tick(&s, at, 1), SETTLING);
    ck_assert_int_eq(settle_tick(&s, 600, 1), SETTLED);
}
END_TEST

START_TEST(settles_by_the_clock)
{
    struct settle busy = { 0 }, never = { 0 };

    for (uint64_t at = 100; at < SETTLE_MAX_MS; at += 100) {
        ck_assert_int_eq(settle_tick(&busy, at, at), SETTLING);
        ck_assert_int_eq(settle_tick(&never, at, 0), SETTLING);
    }
    ck_assert_int_eq(settle_tick(&busy, SETTLE_MAX_MS, SETTLE_MAX_MS), SETTLED_BY_CLOCK);
    ck_assert_int_eq(settle_tick(&never, SETTLE_MAX_MS, 0), SETTLED_BY_CLOCK);
}
END_TEST

START_TEST(records_in_order_and_once)
{
    struct page_run known = { 10, 2 };
    struct working_set before = { .runs = &known, .n_runs = 1 };
    auto_working_set struct working_set set = { 0 };
    struct recorder r;

    ck_assert_int_eq(recorder_init(&r, 1000, NULL), 0);
    ck_assert_int_eq(recorder_get(&r, 4096, &set), -ENODATA);
    recorder_done(&r);
    ck_assert_int_eq(recorder_init(&r, 1000, &before), 0);
    recorder_note(&r, 500, 16);
    recorder_note(&r, 508, 16);
    recorder_note(&r, 500, 24);
    recorder_note(&r, 8, 8);
    recorder_end(&r);
    recorder_note(&r, 900, 1);
    ck_assert_int_eq(recorder_get(&r, 4096, &set), 0);
    ck_assert_uint_eq(set.n_runs, 4);
    ck_assert(set.runs[0].page == 10 && set.runs[0].count == 2);
    ck_assert(set.runs[1].page == 500 && set.runs[1].count == 24);
    ck_assert(set.runs[2].page == 8 && set.runs[2].count == 2);
    ck_assert(set.runs[3].page == 12 && set.runs[3].count == 4);
    recorder_done(&r);
}
END_TEST

START_TEST(percentiles)
{
    struct latency l = { 0 };

    ck_assert_uint_eq(latency_percentile(&l, 50), 0);
    for (uint64_t us = 1; us <= 100; us++)
        latency_add(&l, us <= 98 ? 7 : us * 10000);
    ck_assert_uint_eq(latency_percentile(&l, 50), 7);
    ck_assert_uint_eq(latency_percentile(&l, 98), 7);
    ck_assert_uint_ge(latency_percentile(&l, 99), 850 * 1000);
    ck_assert_uint_le(latency_percentile(&l, 99), 1150 * 1000);
    latency_add(&l, UINT64_MAX); /* the last bucket has all that is longer */
    for (uint64_t us = 16; us < 1 << 20; us += us / 7) {
        struct latency one = { 0 };
        uint64_t told;

        latency_add(&one, us);
        told = latency_percentile(&one, 99);
        ck_assert_uint_ge(told, us - us / 8);
        ck_assert_uint_le(told, us + us / 8);
    }
}
END_TEST

START_TEST(pressure)
{
    ck_assert(!pressure_text_is_high("some avg10=9.99 avg60=80.00 avg300=0 total=1\nfull avg10=50.00\n"));
    ck_assert(pressure_text_is_high("some avg10=10.00 avg60=0.00 avg300=0 total=1\nfull avg10=0.00\n"));
    ck_assert(pressure_text_is_high("some avg10=100.00 avg60=0.00\n"));
    ck_assert(!pressure_text_is_high(""));
    ck_assert(!pressure_text_is_high("some avg10="));
    (void)pressure_is_high();
}
END_TEST

START_TEST(state)
{
    uint64_t among[3] = { ~UINT64_C(0), 0xff, ~UINT64_C(0) };
    struct pager_state s = { 0 }, other = { 0 };
    int fd = state_new(3 * 64 * IMAGE_PAGE);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, 0), -1);
    ck_assert_int_eq(state_open(fd, 64 * IMAGE_PAGE, &s, NULL), -EINVAL);
    ck_assert_int_eq(state_open(fd, 3 * 64 * IMAGE_PAGE, &s, NULL), 0);
    ck_assert_uint_eq(state_settle(&s, 60, 4 + 64 + 1, among), 4 + 8 + 1);
    ck_assert_uint_eq(state_settle(&s, 0, 192, among), 60 + 63);
    ck_assert_uint_eq(state_settle(&s, 0, 192, among), 0);
    ck_assert_int_eq(state_open(fd, 3 * 64 * IMAGE_PAGE, &other, NULL), 0);
    ck_assert(state_is_settled(&other, 191));
    state_close_bitmap(&other);
    ck_assert_uint_eq(other.header->ram_size, 3 * 64 * IMAGE_PAGE);
    state_close(&other);
    s.header->version++;
    ck_assert_int_eq(state_open(fd, 3 * 64 * IMAGE_PAGE, &other, NULL), -EINVAL);
    state_close(&s);
    fd_close(fd);
    ck_assert_int_eq(state_new(0), -EINVAL);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, settles_when_quiet);
    tcase_add_test(tc, settles_not_too_soon);
    tcase_add_test(tc, settles_by_the_clock);
    tcase_add_test(tc, records_in_order_and_once);
    tcase_add_test(tc, percentiles);
    tcase_add_test(tc, pressure);
    tcase_add_test(tc, state);
}

int main(void) { return fixture_main("pager_parts", add_tests); }
