#include "lib/base/backoff.h"

bool backoff_next(struct backoff *b, uint32_t random, uint64_t *ret_ms)
{
    if (b->max_attempts && b->attempt >= b->max_attempts)
        return false;
    uint64_t limit = b->max_delay_ms > b->delay_ms ? b->max_delay_ms : b->delay_ms;
    if (limit > INT64_MAX)
        limit = INT64_MAX; /* so that the jitter can't overflow */
    uint64_t base = b->attempt >= 63 || b->delay_ms > limit >> b->attempt ? limit : b->delay_ms << b->attempt;
    if (b->delay_ms == 0)
        base = 0;
    /* From 90 % to 110 %: a fifth of the delay times random / 2^32, in two halves so that it fits. */
    uint64_t fifth = base / 5;
    uint64_t jitter = (fifth >> 32) * random + (((fifth & UINT32_MAX) * random) >> 32);
    *ret_ms = base - base / 10 + jitter;
    b->attempt++;
    return true;
}

void backoff_reset(struct backoff *b) { b->attempt = 0; }
