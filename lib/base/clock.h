/* Time: monotonic for durations, real time for people. */
#pragma once

#include <stdint.h>

uint64_t clock_mono_us(void);     /* CLOCK_MONOTONIC */
uint64_t clock_boottime_us(void); /* CLOCK_BOOTTIME: goes on while the host sleeps; comparable to process start times */
uint64_t clock_real_us(void);     /* microseconds since the epoch */

enum { CLOCK_TEXT_MAX = 32 };
/* "2026-11-21T09:14:03.123Z" (RFC 3339, UTC, milliseconds). Returns buf. */
const char *clock_format(uint64_t real_us, char buf[CLOCK_TEXT_MAX]);
/* The inverse, for records read back. -EINVAL. */
int clock_parse(const char *text, uint64_t *ret_real_us);
