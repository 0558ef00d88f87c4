/* When releases that are newer are picked up: the local clock's next "03:30", whatever the clock is put to in between. */
#include <stdlib.h>

#include "lib/manager/image_update.h"
#include "tests/unit/fixture.h"

static void in_zone(const char *zone)
{
    ck_assert_int_eq(setenv("TZ", zone, 1), 0);
    tzset();
}

static time_t local(int year, int month, int day, int hour, int minute)
{
    struct tm tm = { .tm_year = year - 1900, .tm_mon = month - 1, .tm_mday = day, .tm_hour = hour, .tm_min = minute, .tm_isdst = -1 };

    return mktime(&tm);
}

static const char *const zones[] = { "UTC", "CET-1CEST,M3.5.0,M10.5.0/3", "EST5EDT,M3.2.0,M11.1.0" };

START_TEST(today_or_tomorrow)
{
    in_zone(zones[_i]);
    time_t at = local(2026, 6, 10, 3, 30);

    ck_assert_int_eq(image_update_next(at - 1, 210), at);
    ck_assert_int_eq(image_update_next(at - 3600, 210), at);
    ck_assert_int_eq(image_update_next(at, 210), local(2026, 6, 11, 3, 30)); /* once a day */
    ck_assert_int_eq(image_update_next(at + 1, 210), local(2026, 6, 11, 3, 30));
    ck_assert_int_eq(image_update_next(local(2026, 12, 31, 23, 59), 0), local(2027, 1, 1, 0, 0));
    ck_assert_int_eq(image_update_next(local(2026, 2, 28, 12, 0), 1439), local(2026, 2, 28, 23, 59));
}
END_TEST

/* A day of 23 or 25 hours, and a time that the clock leaves out. */
START_TEST(summer_time)
{
    in_zone(zones[1]);
    ck_assert_int_eq(image_update_next(local(2026, 3, 28, 4, 0), 210), local(2026, 3, 29, 3, 30));
    ck_assert_int_eq(local(2026, 3, 29, 3, 30) - local(2026, 3, 28, 3, 30), 23 * 3600);
    ck_assert_int_eq(image_update_next(local(2026, 10, 24, 4, 0), 210), local(2026, 10, 25, 3, 30));
    time_t left_out = image_update_next(local(2026, 3, 29, 1, 0), 150);
    ck_assert_int_gt(left_out, local(2026, 3, 29, 1, 0));
    ck_assert_int_le(left_out, local(2026, 3, 29, 4, 0));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, today_or_tomorrow, 0, (int)(sizeof(zones) / sizeof(zones[0])));
    tcase_add_test(tc, summer_time);
}

int main(void) { return fixture_main("image_update", add_tests); }
