/* Exponential back-off with jitter and a budget: delay, 2×delay, 4×delay … up to max_delay, each ±10 %. A max_delay below delay counts as
 * delay: all are the same. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct backoff {
    uint64_t delay_ms;
    uint64_t max_delay_ms;
    uint64_t max_attempts; /* 0: no limit */
    uint64_t attempt;      /* how many delays were handed out since the last reset */
};

/* The next delay in *ret_ms, true; false when the budget is used up (attempt == max_attempts). `random` is any 32 random
 * bits, so that tests can fix the jitter. */
bool backoff_next(struct backoff *b, uint32_t random, uint64_t *ret_ms);
void backoff_reset(struct backoff *b);
