#include "lib/base/clock.h"

#include <errno.h>
#include <stdbool.h>

static uint64_t now_us(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts); /* can't fail for the three clocks below */
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

uint64_t clock_mono_us(void) { return now_us(CLOCK_MONOTONIC); }

uint64_t clock_boottime_us(void) { return now_us(CLOCK_BOOTTIME); }

uint64_t clock_real_us(void) { return now_us(CLOCK_REALTIME); }

const char *clock_format(uint64_t real_us, char buf[CLOCK_TEXT_MAX])
{
    time_t seconds = (time_t)(real_us / 1000000);
    struct tm tm = { 0 };
    gmtime_r(&seconds, &tm);
    char date[24];
    if (strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%S", &tm) == 0)
        date[0] = '\0';
    snprintf(buf, CLOCK_TEXT_MAX, "%s.%03dZ", date, (int)(real_us / 1000 % 1000));
    return buf;
}

/* `n` digits at *p, which moves past them. */
static bool take_digits(const char **p, int n, int *ret)
{
    int value = 0;
    for (int i = 0; i < n; i++) {
        char c = (*p)[i];
        if (c < '0' || c > '9')
            return false;
        value = value * 10 + (c - '0');
    }
    *p += n;
    *ret = value;
    return true;
}

static bool take_char(const char **p, char c)
{
    if (**p != c)
        return false;
    (*p)++;
    return true;
}

/* The optional ".123…": digits beyond microseconds are read and dropped. */
static bool take_fraction(const char **p, uint64_t *ret_us)
{
    uint64_t us = 0, scale = 100000;
    if (!take_char(p, '.')) {
        *ret_us = 0;
        return true;
    }
    if (**p < '0' || **p > '9')
        return false;
    for (; **p >= '0' && **p <= '9'; (*p)++) {
        us += (uint64_t)(**p - '0') * scale;
        scale /= 10;
    }
    *ret_us = us;
    return true;
}

int clock_parse(const char *text, uint64_t *ret_real_us)
{
    const char *p = text;
    struct tm tm = { 0 };
    int year, month;
    uint64_t fraction;
    if (!take_digits(&p, 4, &year) || !take_char(&p, '-') || !take_digits(&p, 2, &month) || !take_char(&p, '-') ||
        !take_digits(&p, 2, &tm.tm_mday) || !take_char(&p, 'T') || !take_digits(&p, 2, &tm.tm_hour) || !take_char(&p, ':') ||
        !take_digits(&p, 2, &tm.tm_min) || !take_char(&p, ':') || !take_digits(&p, 2, &tm.tm_sec) || !take_fraction(&p, &fraction) ||
        !take_char(&p, 'Z') || *p)
        return -EINVAL;
    tm.tm_year = year - 1900;
    tm.tm_mon = month - 1;
    /* timegm() carries what is out of range into the next field; a date that comes back changed was none. */
    struct tm wanted = tm;
    time_t seconds = timegm(&tm);
    if (seconds < 0 || tm.tm_mon != wanted.tm_mon || tm.tm_mday != wanted.tm_mday || tm.tm_hour != wanted.tm_hour ||
        tm.tm_min != wanted.tm_min || tm.tm_sec != wanted.tm_sec)
        return -EINVAL;
    *ret_real_us = (uint64_t)seconds * 1000000 + fraction;
    return 0;
}
