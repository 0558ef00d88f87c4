#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "shim/memory/save_parts.h"
#include "shim/memory/uffd.h"

static uint64_t block_offset(const struct save *s, uint64_t block)
{
    uint64_t offset = block * BLOCK_SIZE;

    return offset < s->config.len ? offset : s->config.len;
}

/* One step of protecting from *at to `end`, at most CHUNK_SIZE. Older kernels want one mapping a call (before 6.3), and a mapping that was
 * ever unregistered in parts may be several: then the step is halved, to *step, until it fits. */
static int protect_step(struct save *s, uint64_t *at, uint64_t end, uint64_t *step, bool on)
{
    uint64_t n = end - *at < *step ? end - *at : *step;
    int r = uffd_protect(s->config.uffd, s->config.addr + *at, n, on);

    if (r == -ENOENT && n > IMAGE_PAGE) {
        *step = n / 2 / IMAGE_PAGE * IMAGE_PAGE;
        return 0;
    }
    if (r < 0)
        return r;
    *at += n;
    *step = *step < CHUNK_SIZE / 2 ? *step * 2 : CHUNK_SIZE;
    return 0;
}

/* ---- faults ---- */

/* -ENOENT: it isn't registered any more, so it isn't protected either; who waits there is to look again. */
static int lift(struct save *s, uint64_t block, uint64_t count)
{
    uint64_t start = block_offset(s, block), len = block_offset(s, block + count) - start;
    int r = uffd_protect(s->config.uffd, s->config.addr + start, len, false);

    return r == -ENOENT ? uffd_wake(s->config.uffd, s->config.addr + start, len) : r;
}

/* What fails here is done by the next fault there: the kernel wants an event read first, or QEMU is gone. */
void save_lift(struct save *s, uint64_t block, uint64_t count) { (void)lift(s, block, count); }

static uint16_t take_buffer(struct save *s)
{
    uint16_t n = s->free;

    if (n != NO_BUFFER)
        s->free = s->taken[n].next;
    return n;
}

static void queue_buffer(struct save *s, uint16_t n, uint64_t block, uint16_t pages)
{
    s->taken[n] = (struct taken){ block, pages, NO_BUFFER };
    if (s->tail == NO_BUFFER)
        s->head = n;
    else
        s->taken[s->tail].next = n;
    s->tail = n;
}

/* With `lock` held, which it lets go of to read: the disk's thread goes on meanwhile. */
static void read_into(struct save *s, uint16_t n, uint64_t block)
{
    unsigned char *buffer = s->batch + BATCH_SIZE + (size_t)n * BLOCK_SIZE;
    struct err err = ERR_INIT;
    uint16_t pages = 0;
    int r;

    s->blocks[block].state = BLOCK_READING;
    s->reading = true;
    pthread_mutex_unlock(&s->lock);
    r = save_read_block(s, block, buffer, &pages, &err);
    pthread_mutex_lock(&s->lock);
    s->reading = false;
    s->blocks[block].state = BLOCK_DONE;
    queue_buffer(s, n, block, pages);
    if (r < 0)
        save_fail_locked(s, &err);
    pthread_cond_signal(&s->work);
}

/* Until the block's content is taken, or nobody wants it any more. With `lock` held. */
static void take(struct save *s, uint64_t block)
{
    struct block *b = &s->blocks[block];
    bool counted = false, stalled = false;

    while (s->phase == SAVE_FROZEN && b->state != BLOCK_DONE) {
        uint16_t n;

        if (!counted)
            s->progress.faults++;
        counted = true;
        if (b->state == BLOCK_READING) {
            pthread_cond_wait(&s->room, &s->lock);
        } else if (b->need == 0) { /* nothing but holes and the source's */
            b->state = BLOCK_DONE;
            save_settle(s, block, 0);
        } else if ((n = take_buffer(s)) != NO_BUFFER) {
            read_into(s, n, block);
        } else {
            if (!stalled)
                s->progress.stalls++;
            stalled = true;
            pthread_cond_wait(&s->room, &s->lock);
        }
    }
}

static int on_protected(void *arg, uint64_t addr)
{
    struct save *s = arg;
    uint64_t block = (addr - s->config.addr) / BLOCK_SIZE;
    int r;

    if (addr < s->config.addr || block >= s->n_blocks)
        return uffd_protect(s->config.uffd, addr, IMAGE_PAGE, false); /* somebody else's of long ago */
    pthread_mutex_lock(&s->lock);
    if (s->phase == SAVE_TRACKING) {
        /* Under the lock, so that save_reguard() comes before both or after both. */
        if (!s->blocks[block].dirty)
            s->progress.faults++;
        s->blocks[block].dirty = true;
        r = lift(s, block, 1);
        pthread_mutex_unlock(&s->lock);
        return r;
    }
    take(s, block);
    pthread_mutex_unlock(&s->lock);
    return lift(s, block, 1);
}

/* Pages were given back: they read as zeros now, and may not be protected any more. Before the freeze that is a change like another.
 * After it, it is the loss of what wasn't read yet. */
static void on_removed(void *arg, uint64_t start, uint64_t end)
{
    struct save *s = arg;
    uint64_t limit = s->config.addr + s->config.len;
    bool lost = false;

    start = start > s->config.addr ? start : s->config.addr;
    end = end < limit ? end : limit;
    if (start >= end)
        return;
    pthread_mutex_lock(&s->lock);
    for (uint64_t i = (start - s->config.addr) / BLOCK_SIZE; i <= (end - 1 - s->config.addr) / BLOCK_SIZE; i++) {
        struct block *b = &s->blocks[i];

        b->dirty = b->gone = true;
        lost |= s->phase == SAVE_FROZEN && b->state != BLOCK_DONE && b->need != 0;
    }
    if (lost) {
        struct err err;

        (void)err_set(&err, EBUSY, "memory-given-back",
                      "the guest gave memory back (balloon, free page reporting) before it was saved: try again, or with --stop");
        save_fail_locked(s, &err);
    }
    pthread_mutex_unlock(&s->lock);
}

static void on_failed(void *arg, int error, uint64_t addr)
{
    struct err err;

    (void)err_set_errno(&err, -error, "not-protected", "can't let the guest write to its memory at 0x%llx", (unsigned long long)addr);
    save_fail(arg, &err);
}

/* ---- all of it ---- */

static int protect_all(struct save *s, struct err *err)
{
    uint64_t step = CHUNK_SIZE;

    for (uint64_t at = 0; at < s->config.len && !save_ended(s);) {
        int r = protect_step(s, &at, s->config.len, &step, true);

        if (r == -EAGAIN)
            (void)usleep(RETRY_US);
        else if (r < 0)
            return err_set_errno(err, -r, "not-protected", "can't write-protect the guest's memory");
    }
    return 0;
}

int save_guard(struct save *s, struct err *err)
{
    const struct fault_handler handler = { .protected = on_protected, .removed = on_removed, .failed = on_failed, .arg = s };
    int r;

    faults_set_protected(s->config.faults, &handler);
    r = faults_watch(s->config.faults, UFFDIO_REGISTER_MODE_WP);
    if (r == -EINVAL)
        return err_set(err, EINVAL, "no-write-protection",
                       "this kernel can't write-protect shared memory (Linux 5.19 and later can): take the snapshot with --stop");
    if (r < 0)
        return err_set_errno(err, -r, "not-protected", "can't watch the guest's memory");
    return protect_all(s, err);
}

/* In chunks, for each takes QEMU's mmap_lock. */
static void release(struct save *s)
{
    uint64_t step = CHUNK_SIZE;

    for (uint64_t at = 0; at < s->config.len;) {
        int r = protect_step(s, &at, s->config.len, &step, false);

        if (r == -EAGAIN)
            (void)usleep(RETRY_US);
        else if (r < 0)
            return; /* QEMU is gone, or it never came to be watched */
    }
}

void save_unguard(struct save *s)
{
    release(s);
    (void)faults_unwatch(s->config.faults, UFFDIO_REGISTER_MODE_WP); /* what may be left is lifted by the next fault there */
    faults_set_protected(s->config.faults, NULL);
}

/* ---- the freeze ---- */

/* What a pager brought in since save_protect() is no hole any more. */
static void find_brought_in(struct save *s)
{
    for (uint64_t i = 0; s->before && i < s->n_blocks; i++)
        if (save_source_pages(s, s->before, i) & ~save_source_pages(s, s->config.from_source, i))
            s->blocks[i].dirty = true;
}

static int reguard_run(struct save *s, uint64_t block, uint64_t count, struct err *err)
{
    uint64_t end = block_offset(s, block + count), step = CHUNK_SIZE, until = clock_mono_us() + RETRY_MAX_US;

    for (uint64_t at = block_offset(s, block); at < end && s->phase == SAVE_TRACKING;) {
        int r = protect_step(s, &at, end, &step, true);

        if (r == -EAGAIN && clock_mono_us() < until) {
            pthread_mutex_unlock(&s->lock); /* the fault thread may be waiting for it */
            (void)usleep(RETRY_US);
            pthread_mutex_lock(&s->lock);
        } else if (r < 0) {
            return err_set_errno(err, -r, "not-protected", "can't write-protect the guest's memory");
        }
    }
    return save_find_new_pages(s, block, count, err);
}

/* All dirty blocks once. `running`: the guest does, so faults are let in between. */
static int reguard_dirty(struct save *s, bool running, uint64_t *ret_count, struct err *err)
{
    *ret_count = 0;
    for (uint64_t i = 0, n; i < s->n_blocks; i += n) {
        int r;

        for (n = 0; i + n < s->n_blocks && s->blocks[i + n].dirty; n++)
            s->blocks[i + n].dirty = false;
        r = n > 0 ? reguard_run(s, i, n, err) : 0;
        if (r < 0)
            return r;
        *ret_count += n;
        if (n > 0 && running) {
            pthread_mutex_unlock(&s->lock);
            (void)sched_yield();
            pthread_mutex_lock(&s->lock);
        }
        n += n == 0;
    }
    return 0;
}

int save_narrow(struct save *s, struct err *err)
{
    uint64_t count = 0, before = UINT64_MAX;
    int r = 0;

    pthread_mutex_lock(&s->lock);
    for (unsigned i = 0; i < NARROW_ROUNDS && s->phase == SAVE_TRACKING && r == 0; i++) {
        r = reguard_dirty(s, true, &count, err);
        if (count <= NARROW_ENOUGH || count > before / 2)
            break;
        before = count;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

int save_reguard(struct save *s, struct err *err)
{
    uint64_t count = 1;

    find_brought_in(s);
    while (count > 0) { /* where the lock was let go of, somebody may have written */
        int r = reguard_dirty(s, false, &count, err);

        if (r < 0)
            return r;
    }
    save_drop_source(s);
    if (s->phase == SAVE_TRACKING)
        s->phase = SAVE_FROZEN;
    return 0;
}
