#include "lib/base/clock.h"

#include "tests/unit/fixture.h"

START_TEST(clocks_go_forward)
{
    uint64_t mono = clock_mono_us(), boot = clock_boottime_us(), real = clock_real_us();
    ck_assert_uint_gt(mono, 0);
    ck_assert_uint_ge(boot, mono);
    ck_assert_uint_gt(real, UINT64_C(1500000000) * 1000000);
    ck_assert_uint_ge(clock_mono_us(), mono);
    ck_assert_uint_ge(clock_boottime_us(), boot);
}
END_TEST

START_TEST(format)
{
    static const struct {
        uint64_t us;
        const char *text;
    } cases[] = {
        { 0, "1970-01-01T00:00:00.000Z" },
        { UINT64_C(1795252443123999), "2026-11-21T09:14:03.123Z" },
        { UINT64_C(951782400000000), "2000-02-29T00:00:00.000Z" },
        { UINT64_C(253402300799999000), "9999-12-31T23:59:59.999Z" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char buf[CLOCK_TEXT_MAX];
        ck_assert_str_eq(clock_format(cases[i].us, buf), cases[i].text);
        uint64_t back = 1;
        ck_assert_int_eq(clock_parse(buf, &back), 0);
        ck_assert_uint_eq(back, cases[i].us / 1000 * 1000);
    }
    char buf[CLOCK_TEXT_MAX];
    clock_format(UINT64_MAX, buf);
    ck_assert_uint_lt(strlen(buf), CLOCK_TEXT_MAX);
}
END_TEST

START_TEST(time_zone_does_not_matter)
{
    setenv("TZ", "America/New_York", 1);
    tzset();
    char buf[CLOCK_TEXT_MAX];
    uint64_t back = 0;
    ck_assert_int_eq(clock_parse(clock_format(UINT64_C(1795252443123000), buf), &back), 0);
    ck_assert_str_eq(buf, "2026-11-21T09:14:03.123Z");
    ck_assert_uint_eq(back, UINT64_C(1795252443123000));
}
END_TEST

START_TEST(parse_fractions)
{
    static const struct {
        const char *text;
        uint64_t us;
    } cases[] = {
        { "1970-01-01T00:00:01Z", 1000000 },
        { "1970-01-01T00:00:01.5Z", 1500000 },
        { "1970-01-01T00:00:01.000001Z", 1000001 },
        { "1970-01-01T00:00:01.123456789Z", 1123456 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t us = 0;
        ck_assert_msg(clock_parse(cases[i].text, &us) == 0, "%s", cases[i].text);
        ck_assert_uint_eq(us, cases[i].us);
    }
}
END_TEST

START_TEST(parse_refuses)
{
    static const char *const bad[] = {
        "",
        "now",
        "2026-11-21",
        "2026-11-21T09:14:03",
        "2026-11-21T09:14:03.Z",
        "2026-11-21T09:14:03.123Zx",
        "2026-11-21 09:14:03Z",
        "2026-13-21T09:14:03Z",
        "2026-00-21T09:14:03Z",
        "2026-02-30T09:14:03Z",
        "2026-11-00T09:14:03Z",
        "2026-11-21T24:00:00Z",
        "2026-11-21T09:60:03Z",
        "2026-11-21T09:14:61Z",
        "1969-12-31T23:59:59Z",
        "26-11-21T09:14:03Z",
        "2026-11-21T9:14:03Z",
        "-026-11-21T09:14:03Z",
        "2026-11-21T09:14:03+01:00",
    };
    uint64_t us = 4711;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(clock_parse(bad[i], &us) == -EINVAL, "%s", bad[i]);
    ck_assert_uint_eq(us, 4711);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, clocks_go_forward);
    tcase_add_test(tc, format);
    tcase_add_test(tc, time_zone_does_not_matter);
    tcase_add_test(tc, parse_fractions);
    tcase_add_test(tc, parse_refuses);
}

int main(void) { return fixture_main("clock", add_tests); }
