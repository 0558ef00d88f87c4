/* The pager's own thread: what is loaded before anybody asks. Plainly into the memfd until the guest may run; then by UFFDIO_COPY, the known
 * working set at once, what a fault would have had to wait for when asked by the events' thread, and the rest in the background. */
#include <errno.h>
#include <sched.h>

#include "lib/base/clock.h"
#include "shim/memory/pager_private.h"
#include "shim/memory/pressure.h"
#include "shim/memory/walk.h"

enum {
    FAULT_PAUSE_US = 1000,     /* the background waits until there was no fault for so long … */
    FAULT_PAUSES_MAX = 5,      /* … but no longer than so many times */
    SLOW_US = 100 * 1000,      /* between two chunks on a host under pressure; how often that is looked at */
    HINTS_EVERY_US = 1000,     /* while there are some it looks for them so often … */
    HINTS_LAST_US = 50 * 1000, /* … and so long after the last */
    AGAIN_MAX = 100,           /* tries of a chunk while events keep it out, FAULT_PAUSE_US apart */
};

/* By UFFDIO_COPY. 0; negative: it wasn't possible now. */
static int install_chunk(struct pager *p, const struct chunk *c, char *buffer, atomic_ulong *counter)
{
    pthread_mutex_t *lock = faults_lock(p->faults);
    uint64_t at = c->page, count;
    bool present;
    int r = c->present ? source_read(p, c->page, c->count, buffer) : 0;

    if (r < 0)
        return r;
    while (faults_waiting(p->faults))
        sched_yield(); /* the mutex isn't fair */
    pthread_mutex_lock(lock);
    for (; r == 0 && pager_next_run(p, &at, c->page + c->count, CHUNK, &count, &present); at += count)
        r = pager_install(p, at, count, present ? buffer + (at - c->page) * UFFD_PAGE : NULL, counter);
    pthread_mutex_unlock(lock);
    if (r == -ESRCH)
        pager_fail(p, QEMU_GONE, "QEMU is gone", c->page);
    return r;
}

static bool is_idle(struct pager *p) { return !p->ending && !p->error && p->n_hints == 0 && !p->settle_now && atomic_load(&p->left) > 0; }

/* Sleeps until then; or, false, there is something else to do: a hint, the end, a wish, nothing left. */
static bool sleep_until(struct pager *p, uint64_t until_us)
{
    uint64_t now = clock_mono_us();

    pthread_mutex_lock(&p->lock);
    while (is_idle(p) && now < until_us) {
        uint64_t wake;

        p->looking = now < p->hinted_us + HINTS_LAST_US;
        wake = p->looking && now + HINTS_EVERY_US < until_us ? now + HINTS_EVERY_US : until_us;
        if (wake == UINT64_MAX) {
            (void)pthread_cond_wait(&p->cond, &p->lock);
        } else {
            struct timespec at = { .tv_sec = (time_t)(wake / 1000000), .tv_nsec = (long)(wake % 1000000) * 1000 };

            (void)pthread_cond_timedwait(&p->cond, &p->lock, &at);
        }
        now = clock_mono_us();
    }
    p->looking = true; /* awake: it will */
    if (p->n_hints > 0)
        p->hinted_us = now;
    pthread_mutex_unlock(&p->lock);
    return now >= until_us;
}

static int install_patiently(struct pager *p, const struct chunk *c, char *buffer, atomic_ulong *counter)
{
    int r = install_chunk(p, c, buffer, counter);

    for (int i = 0; r == -EAGAIN && i < AGAIN_MAX && !pager_is_ending(p); i++) {
        (void)sleep_until(p, clock_mono_us() + FAULT_PAUSE_US);
        r = install_chunk(p, c, buffer, counter);
    }
    return r;
}

static void serve_hints(struct pager *p, char *buffer)
{
    struct window w;
    uint64_t at, count;
    bool present, any;

    for (;;) {
        pthread_mutex_lock(&p->lock);
        any = p->n_hints > 0;
        if (any)
            w = p->hints[--p->n_hints]; /* the newest: the others may have been helped by now */
        pthread_mutex_unlock(&p->lock);
        if (!any)
            return;
        for (at = w.page; !pager_is_ending(p) && pager_next_run(p, &at, w.end, PIECE, &count, &present); at += count)
            if (present != w.zero)
                (void)install_patiently(p, &(struct chunk){ at, count, present }, buffer, &p->n_neighbours);
    }
}

/* The known pages that were not written plainly. The guest is about to need them, so only a fault comes first. */
static void install_known(struct walk *w)
{
    struct chunk c;

    while (!pager_is_ending(w->p) && walk_next(w, &c)) {
        (void)install_patiently(w->p, &c, w->buffer, &w->p->n_known_in);
        serve_hints(w->p, w->buffer);
    }
}

static uint64_t faults_so_far(const struct pager *p)
{
    return atomic_load_explicit(&faults_counters(p->faults)->missing, memory_order_relaxed);
}

static bool settle_is_wished(struct pager *p)
{
    bool wished;

    pthread_mutex_lock(&p->lock);
    wished = p->settle_now;
    p->settle_now = false;
    pthread_mutex_unlock(&p->lock);
    return wished;
}

static void settled(struct pager *p, bool by_clock)
{
    (void)settle_is_wished(p);
    recorder_end(&p->recorder);
    atomic_store(&p->settled_us, clock_mono_us() - p->attached_us);
    atomic_store(&p->gave_up, by_clock);
    atomic_store(&p->settled, true);
    pager_notify(p);
}

static void settle(struct pager *p, char *buffer)
{
    enum settling now = SETTLING;
    struct settle s = { 0 };
    uint64_t next = clock_mono_us();

    while (now == SETTLING && atomic_load(&p->left) > 0 && !pager_is_ending(p)) {
        next += SETTLE_TICK_MS * 1000;
        while (!sleep_until(p, next) && !pager_is_ending(p) && atomic_load(&p->left) > 0) {
            serve_hints(p, buffer);
            if (settle_is_wished(p)) {
                settled(p, false);
                return;
            }
        }
        /* That the known pages are in is activity: there may be no fault at all. */
        now = settle_tick(&s, (clock_mono_us() - p->attached_us) / 1000, faults_so_far(p) + (p->n_known > 0));
    }
    if (!pager_is_ending(p))
        settled(p, now == SETTLED_BY_CLOCK);
}

struct gate {
    uint64_t faults, looked_us;
    bool pressure;
};

static void pass_gate(struct pager *p, struct gate *g, char *buffer)
{
    uint64_t now = clock_mono_us();

    if (now - g->looked_us >= SLOW_US) {
        g->looked_us = now;
        g->pressure = pressure_is_high();
    }
    if (g->pressure && !sleep_until(p, now + SLOW_US))
        serve_hints(p, buffer);
    for (int i = 0; i < FAULT_PAUSES_MAX && faults_so_far(p) != g->faults; i++) {
        g->faults = faults_so_far(p);
        if (!sleep_until(p, clock_mono_us() + FAULT_PAUSE_US))
            break;
    }
}

static void fill_background(struct walk *all)
{
    struct pager *p = all->p;
    struct gate gate = { 0 };
    struct chunk c;

    while (!pager_is_ending(p) && atomic_load(&p->left) > 0) {
        uint64_t before = atomic_load(&p->left);

        all->now = all->ahead = (struct cursor){ 0 };
        while (!pager_is_ending(p) && walk_next(all, &c)) {
            pass_gate(p, &gate, all->buffer);
            serve_hints(p, all->buffer);
            (void)install_patiently(p, &c, all->buffer, &p->n_background);
        }
        /* What can't be read, or found no memory: later, or when it is needed. */
        if (atomic_load(&p->left) == before)
            (void)sleep_until(p, clock_mono_us() + SLOW_US);
    }
}

/* ---- the end ---- */

/* A snapshot that is being taken needs the range a while longer. */
static int let_range_go(struct pager *p)
{
    int r;

    while ((r = faults_unwatch(p->faults, UFFDIO_REGISTER_MODE_MISSING)) == -EBUSY) {
        struct timespec until;
        uint64_t at = clock_mono_us() + SLOW_US;
        bool ending;

        until = (struct timespec){ .tv_sec = (time_t)(at / 1000000), .tv_nsec = (long)(at % 1000000) * 1000 };
        pthread_mutex_lock(&p->lock);
        if (!p->ending)
            (void)pthread_cond_timedwait(&p->cond, &p->lock, &until);
        ending = p->ending;
        pthread_mutex_unlock(&p->lock);
        if (ending)
            return -ECANCELED;
    }
    return r;
}

static void finish(struct pager *p)
{
    int r = let_range_go(p);

    if (r == -ECANCELED)
        return;
    if (r < 0) {
        pager_fail(p, -r, "can't let go of the guest's memory", 0);
        return;
    }
    atomic_store(&p->state.header->complete, 1);
    pager_finish(p);
    pager_notify(p);
}

static void run(struct pager *p, char *buffer)
{
    struct walk known = { .p = p, .runs = p->known, .n_runs = p->n_known, .buffer = buffer };
    struct walk all = { .p = p, .n_runs = 1, .buffer = buffer };
    bool attached;

    if (!p->resumed && p->config.everything)
        walk_write_plainly(&all);
    else if (!p->resumed && p->plain && p->known)
        walk_write_plainly(&known);
    if (pager_is_ending(p))
        return;
    atomic_store(&p->loaded, true);
    pager_notify(p);
    if (p->config.everything && !p->resumed)
        return; /* pager_attach() completes it */
    pthread_mutex_lock(&p->lock);
    while (!p->attached && !p->ending && !p->error)
        (void)pthread_cond_wait(&p->cond, &p->lock);
    attached = p->attached && !p->ending;
    pthread_mutex_unlock(&p->lock);
    if (!attached)
        return;
    known.now = known.ahead = (struct cursor){ 0 };
    if (p->known)
        install_known(&known);
    settle(p, buffer);
    if (p->config.prefetch)
        fill_background(&all);
    while (!pager_is_ending(p) && atomic_load(&p->left) > 0)
        if (!sleep_until(p, UINT64_MAX)) {
            (void)settle_is_wished(p);
            serve_hints(p, buffer);
        }
    if (!pager_is_ending(p))
        finish(p);
}

void *pager_loader(void *arg)
{
    struct pager *p = arg;
    char *buffer = source_buffer_new();

    if (buffer)
        run(p, buffer);
    else
        pager_fail(p, ENOMEM, "no memory for a buffer", 0);
    source_buffer_free(buffer);
    return NULL;
}
