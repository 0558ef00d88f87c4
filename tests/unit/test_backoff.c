#include "lib/base/backoff.h"

#include "tests/unit/fixture.h"

/* The bits for the middle of the jitter: the delay itself, but for rounding. */
static const uint32_t middle = UINT32_C(1) << 31;

START_TEST(doubles_up_to_the_limit)
{
    struct backoff b = { .delay_ms = 1000, .max_delay_ms = 60000 };
    static const uint64_t expected[] = { 1000, 2000, 4000, 8000, 16000, 32000, 60000, 60000 };
    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        uint64_t ms = 0;
        ck_assert(backoff_next(&b, middle, &ms));
        ck_assert_uint_eq(ms, expected[i]);
        ck_assert_uint_eq(b.attempt, i + 1);
    }
    backoff_reset(&b);
    uint64_t ms = 0;
    ck_assert(backoff_next(&b, middle, &ms));
    ck_assert_uint_eq(ms, 1000);
}
END_TEST

START_TEST(jitter_is_a_tenth_either_way)
{
    struct backoff b = { .delay_ms = 1000, .max_delay_ms = 1000 };
    uint64_t low = 0, high = 0;
    ck_assert(backoff_next(&b, 0, &low));
    ck_assert(backoff_next(&b, UINT32_MAX, &high));
    ck_assert_uint_eq(low, 900);
    ck_assert_uint_eq(high, 1099);
}
END_TEST

START_TEST(budget_is_spent)
{
    struct backoff b = { .delay_ms = 1, .max_delay_ms = 8, .max_attempts = 3 };
    uint64_t ms = 4711;
    for (int i = 0; i < 3; i++)
        ck_assert(backoff_next(&b, middle, &ms));
    ms = 4711;
    ck_assert(!backoff_next(&b, middle, &ms));
    ck_assert(!backoff_next(&b, middle, &ms));
    ck_assert_uint_eq(ms, 4711);
    ck_assert_uint_eq(b.attempt, 3);
    backoff_reset(&b);
    ck_assert(backoff_next(&b, middle, &ms));
}
END_TEST

START_TEST(extremes_do_not_wrap)
{
    struct backoff b = { .delay_ms = UINT64_MAX, .max_delay_ms = UINT64_MAX };
    uint64_t ms = 0;
    ck_assert(backoff_next(&b, UINT32_MAX, &ms));
    ck_assert_uint_ge(ms, INT64_MAX);
    b = (struct backoff){ .delay_ms = 3, .max_delay_ms = UINT64_MAX, .attempt = 200 };
    ck_assert(backoff_next(&b, middle, &ms));
    ck_assert_uint_ge(ms, INT64_MAX / 10 * 9);
    b = (struct backoff){ .delay_ms = 3, .max_delay_ms = INT64_MAX, .attempt = 62 };
    ck_assert(backoff_next(&b, middle, &ms));
    ck_assert_uint_ge(ms, INT64_MAX / 10 * 9);
    b = (struct backoff){ .delay_ms = 0, .max_delay_ms = 1000, .attempt = 70 };
    ck_assert(backoff_next(&b, UINT32_MAX, &ms));
    ck_assert_uint_eq(ms, 0);
    b = (struct backoff){ .delay_ms = 1000, .max_delay_ms = 0, .attempt = 5 };
    ck_assert(backoff_next(&b, middle, &ms));
    ck_assert_uint_eq(ms, 1000);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, doubles_up_to_the_limit);
    tcase_add_test(tc, jitter_is_a_tenth_either_way);
    tcase_add_test(tc, budget_is_spent);
    tcase_add_test(tc, extremes_do_not_wrap);
}

int main(void) { return fixture_main("backoff", add_tests); }
