#include "shim/memory/recorder.h"

#include <errno.h>

enum { QUIET_PART = 32 }; /* a tick is quiet with less than 1/32 of the busiest one's faults */

int recorder_init(struct recorder *r, uint64_t pages, const struct working_set *known)
{
    *r = (struct recorder){ 0 };
    (void)pthread_mutex_init(&r->lock, NULL);
    r->seen = calloc((size_t)((pages + 63) / 64), sizeof(uint64_t));
    if (!r->seen)
        return -ENOMEM;
    for (size_t i = 0; known && i < known->n_runs; i++)
        recorder_note(r, known->runs[i].page, known->runs[i].count);
    return r->failed ? -ENOMEM : 0;
}

void recorder_done(struct recorder *r)
{
    free(r->seen);
    free(r->runs);
    (void)pthread_mutex_destroy(&r->lock);
    *r = (struct recorder){ 0 };
}

static void add(struct recorder *r, uint64_t page)
{
    struct page_run *last = r->n > 0 ? &r->runs[r->n - 1] : NULL;

    if (last && (uint64_t)last->page + last->count == page && last->count < UINT32_MAX) {
        last->count++;
        return;
    }
    if (!r->runs || r->n == r->size) {
        size_t size = r->size ? 2 * r->size : 256;
        struct page_run *runs = reallocarray(r->runs, size, sizeof(*runs));

        if (!runs) {
            r->failed = true;
            return;
        }
        r->runs = runs;
        r->size = size;
    }
    r->runs[r->n++] = (struct page_run){ (uint32_t)page, 1 };
}

void recorder_note(struct recorder *r, uint64_t page, uint64_t count)
{
    pthread_mutex_lock(&r->lock);
    for (uint64_t end = page + count; r->seen && !r->failed && page < end; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);

        if (!(r->seen[page / 64] & bit)) {
            r->seen[page / 64] |= bit;
            add(r, page);
        }
    }
    pthread_mutex_unlock(&r->lock);
}

void recorder_end(struct recorder *r)
{
    pthread_mutex_lock(&r->lock);
    free(r->seen);
    r->seen = NULL;
    pthread_mutex_unlock(&r->lock);
}

int recorder_get(struct recorder *r, uint64_t ram_size, struct working_set *ret_set)
{
    struct working_set set = { .ram_size = ram_size };
    int result = 0;

    pthread_mutex_lock(&r->lock);
    if (r->n == 0 || r->failed)
        result = -ENODATA;
    else if (!(set.runs = calloc(r->n, sizeof(*set.runs))))
        result = -ENOMEM;
    else
        memcpy(set.runs, r->runs, r->n * sizeof(*set.runs));
    set.n_runs = r->n;
    pthread_mutex_unlock(&r->lock);
    if (result == 0)
        *ret_set = set;
    return result;
}

enum settling settle_tick(struct settle *s, uint64_t now_ms, uint64_t faults)
{
    uint64_t fresh = faults - s->faults;

    s->faults = faults;
    if (s->begin_ms == 0 && faults > 0)
        s->begin_ms = now_ms;
    if (fresh > s->peak)
        s->peak = fresh;
    s->quiet = fresh <= s->peak / QUIET_PART ? s->quiet + 1 : 0;
    if (s->begin_ms > 0 && now_ms >= s->begin_ms + SETTLE_MIN_MS && s->quiet >= SETTLE_QUIET_TICKS)
        return SETTLED;
    return now_ms >= SETTLE_MAX_MS ? SETTLED_BY_CLOCK : SETTLING;
}
