#include <errno.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "shim/memory/save_parts.h"

enum { TELL_EVERY_US = 100 * 1000 };

static void tell_now(const struct save *s)
{
    if (s->config.notify)
        s->config.notify(s->config.arg);
}

void save_tell(struct save *s)
{
    uint64_t now = clock_mono_us();

    if (now - s->told < TELL_EVERY_US)
        return;
    s->told = now;
    tell_now(s);
}

/* ---- the thread ---- */

/* The next blocks nobody has read yet, as many as lie side by side. With `lock` held. */
static size_t next_batch(struct save *s, uint64_t *ret_block)
{
    size_t n = 0;

    for (; s->cursor < s->n_blocks; s->cursor++) {
        struct block *b = &s->blocks[s->cursor];

        if (b->state == BLOCK_PROTECTED && b->need == 0) {
            b->state = BLOCK_DONE;
            save_settle(s, s->cursor, 0);
        } else if (b->state == BLOCK_PROTECTED) {
            break;
        }
    }
    *ret_block = s->cursor;
    for (; n < BATCH_BLOCKS && s->cursor < s->n_blocks; s->cursor++, n++) {
        struct block *b = &s->blocks[s->cursor];

        if (b->state != BLOCK_PROTECTED || b->need == 0)
            break;
        b->state = BLOCK_READING;
    }
    return n;
}

static int copy_batch(struct save *s, uint64_t block, size_t count, struct err *err)
{
    uint16_t pages[BATCH_BLOCKS] = { 0 };
    int r = 0;

    for (size_t i = 0; i < count && r == 0; i++)
        r = save_read_block(s, block + i, s->batch + i * BLOCK_SIZE, &pages[i], err);
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < count; i++)
        s->blocks[block + i].state = BLOCK_DONE;
    if (r < 0) /* before anybody who waits goes on, so that he sees why */
        save_fail_locked(s, err);
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
    if (r < 0)
        return r;
    if (s->config.faults)
        save_lift(s, block, count);
    r = save_write_blocks(s, block, s->batch, pages, count, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < count; i++)
        save_settle(s, block + i, pages[i]);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static int write_taken(struct save *s, uint16_t n, struct err *err)
{
    struct taken taken = s->taken[n]; /* ours since it left the queue */
    int r = save_write_blocks(s, taken.block, s->batch + BATCH_SIZE + (size_t)n * BLOCK_SIZE, &taken.pages, 1, err);

    pthread_mutex_lock(&s->lock);
    s->taken[n].next = s->free;
    s->free = n;
    if (r == 0)
        save_settle(s, taken.block, taken.pages);
    pthread_cond_broadcast(&s->room);
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* One thing to do, faults first; waits for one. 0: all is done, or it has ended. With -errno the words are in *err. */
static int copy_step(struct save *s, struct err *err)
{
    uint64_t block = 0;
    size_t count = 0;
    uint16_t buffer;
    bool copied = false;
    int r = 0;

    pthread_mutex_lock(&s->lock);
    while (s->phase != SAVE_ENDED && s->head == NO_BUFFER && !copied) {
        bool can_copy = s->want_copy && s->phase == SAVE_FROZEN;

        count = can_copy ? next_batch(s, &block) : 0;
        copied = count > 0 || (can_copy && !s->reading);
        if (!copied)
            pthread_cond_wait(&s->work, &s->lock);
    }
    buffer = s->phase == SAVE_ENDED ? NO_BUFFER : s->head;
    if (buffer != NO_BUFFER) {
        s->head = s->taken[buffer].next;
        s->tail = s->head == NO_BUFFER ? NO_BUFFER : s->tail;
    }
    pthread_mutex_unlock(&s->lock);
    if (buffer != NO_BUFFER)
        r = write_taken(s, buffer, err);
    else if (count > 0)
        r = copy_batch(s, block, count, err);
    else
        return 0;
    return r < 0 ? r : 1;
}

static int copy_all(struct save *s, struct err *err)
{
    int r;

    do {
        r = copy_step(s, err);
        save_tell(s);
    } while (r > 0);
    return r;
}

static int prepare_file(struct save *s, struct err *err)
{
    if (ftruncate(s->config.out_fd, (off_t)s->config.len) < 0)
        return save_say(err, errno, "write", s->config.out_fd);
    return 0;
}

/* What a save with a running guest begins with: up to save_protected(). */
static int protect(struct save *s, struct err *err)
{
    int r;

    pthread_mutex_lock(&s->lock);
    if (s->phase == SAVE_OPEN)
        s->phase = SAVE_TRACKING;
    pthread_mutex_unlock(&s->lock);
    r = save_guard(s, err);
    r = r < 0 ? r : save_find_pages(s, err);
    r = r < 0 ? r : save_narrow(s, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    s->protected = s->phase == SAVE_TRACKING;
    pthread_mutex_unlock(&s->lock);
    tell_now(s);
    return 0;
}

/* What a save with a stopped guest begins with. */
static int look(struct save *s, struct err *err)
{
    int r = save_find_pages(s, err);

    pthread_mutex_lock(&s->lock);
    save_drop_source(s);
    if (s->phase == SAVE_OPEN)
        s->phase = SAVE_FROZEN;
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* The wish it is woken for; false: to end. */
static bool await_wish(struct save *s)
{
    bool wished;

    pthread_mutex_lock(&s->lock);
    while (!s->want_protect && !s->want_copy && s->phase != SAVE_ENDED)
        pthread_cond_wait(&s->work, &s->lock);
    wished = s->phase != SAVE_ENDED;
    pthread_mutex_unlock(&s->lock);
    return wished;
}

static void end(struct save *s)
{
    pthread_mutex_lock(&s->lock);
    save_end_locked(s);
    pthread_mutex_unlock(&s->lock);
    if (s->config.faults)
        save_unguard(s);
}

void *save_run(void *arg)
{
    struct save *s = arg;
    struct err err = ERR_INIT;
    bool wished = await_wish(s);
    int r = 0;

    if (wished) {
        r = prepare_file(s, &err);
        if (r == 0)
            r = s->config.faults ? protect(s, &err) : look(s, &err);
        if (r == 0)
            r = copy_all(s, &err);
        if (r < 0)
            save_fail(s, &err);
        end(s); /* before what may take long and needs the guest's memory no more */
        if (!save_ended(s))
            r = save_copy_source(s, &err);
        if (!save_ended(s) && r == 0 && fdatasync(s->config.out_fd) < 0)
            r = save_say(&err, errno, "write", s->config.out_fd);
    }
    free(s->batch);
    s->batch = NULL;
    pthread_mutex_lock(&s->lock);
    if (r < 0)
        save_fail_locked(s, &err);
    s->done = true;
    pthread_mutex_unlock(&s->lock);
    tell_now(s);
    return NULL;
}
