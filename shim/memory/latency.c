#include "shim/memory/latency.h"

enum { EXACT = 16, EXACT_BITS = 4, PARTS = 4 };

static unsigned bucket_of(uint64_t us)
{
    unsigned log, bucket;

    if (us < EXACT)
        return (unsigned)us;
    log = 63 - (unsigned)__builtin_clzll(us);
    bucket = EXACT + (log - EXACT_BITS) * PARTS + (unsigned)(us >> (log - 2) & (PARTS - 1));
    return bucket < LATENCY_BUCKETS ? bucket : LATENCY_BUCKETS - 1;
}

static uint64_t middle_of(unsigned bucket)
{
    unsigned log = EXACT_BITS + (bucket - EXACT) / PARTS, part = (bucket - EXACT) % PARTS;

    if (bucket < EXACT)
        return bucket;
    return ((uint64_t)(PARTS + part) << (log - 2)) + (UINT64_C(1) << (log - 3));
}

void latency_add(struct latency *l, uint64_t us) { atomic_fetch_add_explicit(&l->buckets[bucket_of(us)], 1, memory_order_relaxed); }

uint64_t latency_percentile(const struct latency *l, unsigned percent)
{
    uint64_t total = 0, seen = 0;

    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        total += atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
    for (unsigned i = 0; i < LATENCY_BUCKETS && total > 0; i++) {
        seen += atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
        if (seen * 100 >= total * percent)
            return middle_of(i);
    }
    return 0;
}
