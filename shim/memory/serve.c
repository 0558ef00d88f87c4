/* What the events' thread does: the faulting page first and at once, then, while nothing is queued, its neighbourhood piece by piece. */
#include <errno.h>

#include "lib/base/clock.h"
#include "shim/memory/pager_private.h"

enum {
    WINDOW_MIN = 4, /* pages; all are powers of two */
    WARM_HEAT = 1,  /* earlier faults in the block: then 256 KiB of it … */
    HOT_HEAT = 2,   /* … and then all of it */
    ISOLATED_MAX = 16,
};

/* How much around a page is worth having. Pages that are needed come in clusters or one after the other: so more where there were
 * faults before, or where the last neighbourhood is gone on from; less when many in a row had nothing to do with each other. */
static uint64_t neighbours_of(struct pager *p, uint64_t page, bool zero)
{
    uint8_t *heat = &p->heat[page / BLOCK];
    bool onward = p->next > 0 && page >= p->next && page < p->next + p->window;
    uint64_t n;

    if (onward || *heat > 0) {
        p->isolated = 0;
        if (onward && p->window < BLOCK)
            p->window *= 2;
    } else if (++p->isolated >= ISOLATED_MAX) {
        p->isolated = 0;
        if (p->window > WINDOW_MIN)
            p->window /= 2;
    }
    n = *heat >= HOT_HEAT ? BLOCK : *heat >= WARM_HEAT && p->window < CHUNK ? CHUNK : p->window;
    /* What is recorded is loaded each time from now on; and zeros take memory that the image doesn't say the guest had a use for. */
    if (n > CHUNK && (zero || (p->config.record && !atomic_load(&p->settled))))
        n = CHUNK;
    if (*heat < UINT8_MAX)
        (*heat)++;
    return n;
}

static struct window neighbourhood(struct pager *p, uint64_t page, bool zero)
{
    uint64_t n = neighbours_of(p, page, zero);
    struct window w = { .page = page / n * n, .end = page / n * n + n, .zero = zero };

    if (w.end > p->pages)
        w.end = p->pages;
    p->next = w.end;
    return w;
}

static void note(struct pager *p, const struct window *w)
{
    uint64_t at = w->page, count;
    bool present;

    for (; pager_next_run(p, &at, w->end, BLOCK, &count, &present); at += count)
        if (present != w->zero)
            recorder_note(&p->recorder, at, count);
}

/* A page that isn't in the page cache costs one wait, in which its neighbourhood comes, too. */
static int read_page(struct pager *p, uint64_t page, const struct window *w)
{
    int r;

    if (source_read_resident(p, page, 1, p->buffer) == 1)
        return 0;
    source_will_need(p, w->page, w->end - w->page);
    r = source_read(p, page, 1, p->buffer);
    if (r < 0)
        pager_fail(p, -r, "can't read the snapshot's memory", page);
    return r;
}

static int install_page(struct pager *p, uint64_t page, const void *buf)
{
    int r;

    pthread_mutex_lock(&p->serving);
    r = pager_install(p, page, 1, buf, buf ? NULL : &p->n_zero);
    pthread_mutex_unlock(&p->serving);
    if (r == -ENOENT) /* no longer registered: all is in, and a new try finds it so */
        r = uffd_wake(p->uffd, pager_addr(p, page), UFFD_PAGE);
    else if (r == -ENOMEM || r == -ENOSPC) /* may pass: tried again until the events' thread gives up */
        r = -EAGAIN;
    else if (r == -ESRCH)
        pager_fail(p, QEMU_GONE, "QEMU is gone", page);
    return r;
}

static void count_fault(struct pager *p)
{
    uint64_t now = clock_mono_us(), since = now - p->attached_us, none = 0;

    latency_add(&p->latency, now - faults_read_time(p->faults));
    atomic_compare_exchange_strong(&p->first_fault_us, &none, since > 0 ? since : 1);
}

/* False: it has `most` of them already. Not `now`: when it looks the next time, if it does without being woken. */
static bool hand_to_loader(struct pager *p, const struct window *w, size_t most, bool now)
{
    bool taken;

    pthread_mutex_lock(&p->lock);
    taken = p->n_hints < most;
    if (taken)
        p->hints[p->n_hints++] = *w;
    if (now || !p->looking)
        pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    return taken;
}

static bool next_piece(struct pager *p, struct window *w, uint64_t *ret_count)
{
    bool present;

    for (; pager_next_run(p, &w->page, w->end, PIECE, ret_count, &present); w->page += *ret_count)
        if (present != w->zero)
            return true;
    return false;
}

/* One piece of the newest neighbourhood. One that can't go on is dropped: who needs the rest of it will ask. */
static bool serve_later(void *arg)
{
    struct pager *p = arg;
    uint64_t count = 0, in = 0;
    struct window *w;
    int r = 0;

    if (p->n_windows == 0)
        return false;
    w = &p->windows[p->n_windows - 1];
    if (next_piece(p, w, &count)) {
        in = w->zero ? count : source_read_resident(p, w->page, count, p->buffer);
        pthread_mutex_lock(&p->serving);
        if (in > 0)
            r = pager_install(p, w->page, in, w->zero ? NULL : p->buffer, &p->n_neighbours);
        pthread_mutex_unlock(&p->serving);
        w->page += in;
    }
    if (in < count)
        (void)hand_to_loader(p, w, HINTS_MAX, true);
    if (in == 0 || in < count || r < 0)
        p->n_windows--;
    return p->n_windows > 0;
}

/* Where the vCPU shares our CPU it waits for us, awake as it is: then the loader gets the neighbours in on another one, as long as it
 * keeps up. Waking it costs as much as the fault did, so a first fault in a block doesn't. Elsewhere they are ours, the first piece
 * at once: faults that come faster than neighbours would never let any come. */
static void serve_neighbours(struct pager *p, const struct window *w)
{
    bool now = p->heat[w->page / BLOCK] > WARM_HEAT;

    if (faults_share_cpu(p->faults) && hand_to_loader(p, w, HINTS_BEHIND, now))
        return;
    if (p->n_windows < WINDOWS_MAX)
        p->windows[p->n_windows++] = *w;
    (void)serve_later(p);
}

static int serve_missing(void *arg, uint64_t addr, bool write)
{
    struct pager *p = arg;
    uint64_t page = (addr - p->addr) / UFFD_PAGE;
    struct window w;
    int r;

    if (addr < p->addr || page >= p->pages)
        return -ERANGE;
    if (state_is_settled(&p->state, page)) { /* given back, see install.c */
        r = install_page(p, page, NULL);
        if (r == 0)
            count_fault(p);
        return r;
    }
    w = neighbourhood(p, page, !pager_has(p, page));
    if (!w.zero && (r = read_page(p, page, &w)) < 0)
        return r;
    if (p->config.record && !atomic_load(&p->settled))
        note(p, &w);
    r = install_page(p, page, w.zero ? NULL : p->buffer);
    if (r < 0)
        return r;
    count_fault(p);
    serve_neighbours(p, &w);
    return 0;
}

static void serve_removed(void *arg, uint64_t start, uint64_t end)
{
    struct pager *p = arg;
    uint64_t limit = pager_addr(p, p->pages);

    start = start < p->addr ? p->addr : start;
    end = end > limit ? limit : end;
    if (start < end)
        pager_settle_pages(p, (start - p->addr) / UFFD_PAGE, (end - start) / UFFD_PAGE);
}

static void serve_failed(void *arg, int error, uint64_t addr)
{
    struct pager *p = arg;

    pager_fail(p, -error, "can't give the guest a page of its memory", (addr - p->addr) / UFFD_PAGE);
}

const struct fault_handler pager_handler = {
    .missing = serve_missing,
    .removed = serve_removed,
    .later = serve_later,
    .failed = serve_failed,
};
