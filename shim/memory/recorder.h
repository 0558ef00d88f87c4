/* What a restored guest needed first, and when it has it. */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/memory_image.h"

/* ---- the record ---- */

struct recorder {
    pthread_mutex_t lock;
    uint64_t *seen; /* bitmap of the pages in `runs`; NULL: not recording (any more) */
    struct page_run *runs;
    size_t n, size;
    bool failed; /* out of memory: there is no record */
};

/* Not to be copied. `known` (NULL: none) begins the record. -ENOMEM. */
int recorder_init(struct recorder *r, uint64_t pages, const struct working_set *known);
void recorder_done(struct recorder *r);
/* The pages of the run that aren't recorded yet come next. Any thread; nothing happens once ended. */
void recorder_note(struct recorder *r, uint64_t page, uint64_t count);
void recorder_end(struct recorder *r);
/* A copy. -ENODATA: nothing was recorded, -ENOMEM. */
int recorder_get(struct recorder *r, uint64_t ram_size, struct working_set *ret_set);

/* ---- the settle detector ---- */

enum settling { SETTLING, SETTLED, SETTLED_BY_CLOCK };
enum { SETTLE_TICK_MS = 100, SETTLE_MIN_MS = 500, SETTLE_QUIET_TICKS = 3, SETTLE_MAX_MS = 10 * 1000 };

struct settle {
    uint64_t begin_ms; /* of the first activity; 0: none yet */
    uint64_t faults, peak;
    unsigned quiet;
};

/* Every SETTLE_TICK_MS, with the time since the guest may run and how many faults there were in all. After the first activity and
 * SETTLE_MIN_MS, three ticks in a row settle it in which nearly nothing happened, compared with the busiest. */
enum settling settle_tick(struct settle *s, uint64_t now_ms, uint64_t faults);
