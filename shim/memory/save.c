#include "shim/memory/save.h"

#include <errno.h>

#include "lib/base/thread.h"
#include "shim/memory/save_parts.h"

enum { STACK_SIZE = 128 * 1024 };

/* ---- what all of it shares ---- */

void save_end_locked(struct save *s)
{
    s->phase = SAVE_ENDED;
    pthread_cond_broadcast(&s->work);
    pthread_cond_broadcast(&s->room);
}

void save_fail_locked(struct save *s, const struct err *err)
{
    if (!s->done && !err_is_set(&s->err))
        s->err = *err;
    save_end_locked(s);
}

void save_fail(struct save *s, const struct err *err)
{
    pthread_mutex_lock(&s->lock);
    save_fail_locked(s, err);
    pthread_mutex_unlock(&s->lock);
}

bool save_ended(struct save *s)
{
    bool ended;

    pthread_mutex_lock(&s->lock);
    ended = err_is_set(&s->err);
    pthread_mutex_unlock(&s->lock);
    return ended;
}

static uint16_t all_pages(const struct save *s, uint64_t block)
{
    uint64_t left = s->n_pages - block * BLOCK_PAGES;

    return left >= BLOCK_PAGES ? UINT16_MAX : (uint16_t)((1U << left) - 1);
}

uint16_t save_source_pages(const struct save *s, const uint64_t *from_source, uint64_t block)
{
    return (uint16_t)(from_source[block / 4] >> block % 4 * BLOCK_PAGES) & all_pages(s, block);
}

void save_settle(struct save *s, uint64_t block, uint16_t pages)
{
    uint16_t ours = all_pages(s, block);

    if (s->config.from_source)
        ours &= (uint16_t)~save_source_pages(s, s->config.from_source, block);
    s->progress.done += (uint64_t)__builtin_popcount(ours);
    s->progress.written += (uint64_t)__builtin_popcount(pages);
    s->progress.zero += (uint64_t)__builtin_popcount(ours & (uint16_t)~pages);
}

void save_drop_source(struct save *s)
{
    for (uint64_t i = 0; s->config.from_source && i < s->n_blocks; i++)
        s->blocks[i].need &= (uint16_t)~save_source_pages(s, s->config.from_source, i);
}

/* ---- for the caller ---- */

static int allocate(struct save *s)
{
    s->n_pages = s->config.len / IMAGE_PAGE;
    s->n_blocks = (s->n_pages + BLOCK_PAGES - 1) / BLOCK_PAGES;
    s->progress.total = s->n_pages;
    s->head = s->tail = s->free = NO_BUFFER;
    for (uint16_t i = BUFFERS; i-- > 0; s->free = i)
        s->taken[i].next = s->free;
    s->blocks = calloc(s->n_blocks, sizeof(*s->blocks));
    s->before = s->config.from_source ? calloc((s->n_pages + 63) / 64, sizeof(*s->before)) : NULL;
    if (!s->blocks || (s->config.from_source && !s->before))
        return -ENOMEM;
    /* So large that it is a mapping of its own: takes memory as it is used, and is gone when freed. */
    s->batch = malloc(BUFFERS_SIZE);
    return s->batch ? 0 : -ENOMEM;
}

static int start(struct save *s) { return thread_start(STACK_SIZE, save_run, s, &s->thread); }

static void release(struct save *s)
{
    (void)pthread_mutex_destroy(&s->lock);
    (void)pthread_cond_destroy(&s->work);
    (void)pthread_cond_destroy(&s->room);
    free(s->batch);
    free(s->blocks);
    free(s->before);
    free(s);
}

int save_new(const struct save_config *config, struct save **ret, struct err *err)
{
    struct save *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return err_set(err, ENOMEM, "no-memory", "no memory for a snapshot");
    s->config = *config;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    (void)pthread_cond_init(&s->room, NULL);
    r = allocate(s);
    if (r == 0)
        r = start(s);
    if (r < 0) {
        release(s);
        return err_set_errno(err, -r, "no-memory", "can't begin a snapshot");
    }
    *ret = s;
    return 0;
}

void save_free(struct save *s)
{
    if (!s)
        return;
    save_cancel(s);
    release(s);
}

void save_protect(struct save *s)
{
    if (s->before)
        memcpy(s->before, s->config.from_source, (s->n_pages + 63) / 64 * sizeof(*s->before));
    pthread_mutex_lock(&s->lock);
    s->want_protect = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

int save_freeze(struct save *s)
{
    struct err err = ERR_INIT;
    int r = 0;

    /* What QEMU gave back before it stopped was read by the fault thread, or QEMU hadn't stopped; once it is told, too. */
    pthread_mutex_lock(faults_lock(s->config.faults));
    pthread_mutex_unlock(faults_lock(s->config.faults));
    pthread_mutex_lock(&s->lock);
    if (s->phase == SAVE_TRACKING && s->protected)
        r = save_reguard(s, &err);
    else if (s->phase != SAVE_FROZEN)
        r = err_set(&err, EBUSY, "not-protected", "the guest's memory isn't protected");
    if (r < 0)
        save_fail_locked(s, &err);
    r = -s->err.code;
    pthread_mutex_unlock(&s->lock);
    return r;
}

void save_copy(struct save *s)
{
    pthread_mutex_lock(&s->lock);
    s->want_copy = true;
    pthread_cond_signal(&s->work);
    pthread_mutex_unlock(&s->lock);
}

/* `lock` isn't part of what const promises. */
static pthread_mutex_t *lock_of(const struct save *s) { return &((struct save *)(uintptr_t)s)->lock; }

bool save_protected(const struct save *s)
{
    bool protected;

    pthread_mutex_lock(lock_of(s));
    protected = s->protected;
    pthread_mutex_unlock(lock_of(s));
    return protected;
}

bool save_done(const struct save *s)
{
    bool done;

    pthread_mutex_lock(lock_of(s));
    done = s->done;
    pthread_mutex_unlock(lock_of(s));
    return done;
}

int save_error(const struct save *s, struct err *err)
{
    int r;

    pthread_mutex_lock(lock_of(s));
    r = -s->err.code;
    if (err && r < 0)
        *err = s->err;
    pthread_mutex_unlock(lock_of(s));
    return r;
}

struct save_progress save_progress(const struct save *s)
{
    struct save_progress progress;

    pthread_mutex_lock(lock_of(s));
    progress = s->progress;
    pthread_mutex_unlock(lock_of(s));
    return progress;
}

void save_stop(struct save *s)
{
    struct err err = ERR_INIT;

    (void)err_set(&err, ECANCELED, "cancelled", "the snapshot was cancelled");
    save_fail(s, &err);
}

void save_cancel(struct save *s)
{
    save_stop(s);
    if (!s->joined)
        (void)pthread_join(s->thread, NULL);
    s->joined = true;
}
