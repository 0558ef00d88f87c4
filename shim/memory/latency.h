/* A histogram of durations: exact below 16 us, then four buckets to each power of two. Any thread adds and reads. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

enum { LATENCY_BUCKETS = 128 };

struct latency {
    atomic_uint buckets[LATENCY_BUCKETS];
};

void latency_add(struct latency *l, uint64_t us);
/* What `percent` of the durations don't exceed (the bucket's middle); 0: there are none. */
uint64_t latency_percentile(const struct latency *l, unsigned percent);
