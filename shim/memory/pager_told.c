/* What a pager tells. */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "shim/memory/pager_private.h"

bool pager_loaded(const struct pager *p) { return atomic_load(&p->loaded); }
bool pager_settled(const struct pager *p) { return atomic_load(&p->settled); }
bool pager_complete(const struct pager *p) { return atomic_load(&p->complete); }
struct faults *pager_faults(struct pager *p) { return p->faults; }

int pager_error(struct pager *p, struct err *err)
{
    int r;

    pthread_mutex_lock(&p->lock);
    r = p->error == QEMU_GONE ? 0 : -p->error;
    if (r < 0 && err)
        *err = p->error_text;
    pthread_mutex_unlock(&p->lock);
    return r;
}

void pager_settle(struct pager *p)
{
    pthread_mutex_lock(&p->lock);
    p->settle_now = p->attached && !atomic_load(&p->settled);
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

/* How many of the run's pages QEMU has never mapped: /proc/PID/pagemap, linux/Documentation/admin-guide/mm/pagemap.rst. */
static uint64_t unmapped(const struct pager *p, int fd, uint64_t page, uint64_t end)
{
    static const uint64_t mapped = UINT64_C(3) << 62; /* present, or swapped */
    uint64_t entries[512], none = 0;

    while (page < end) {
        uint64_t count = end - page < ARRAY_LEN(entries) ? end - page : ARRAY_LEN(entries);
        ssize_t n = pread(fd, entries, count * sizeof(*entries), (off_t)((p->addr / UFFD_PAGE + page) * sizeof(*entries)));

        if (n < (ssize_t)sizeof(*entries))
            break;
        for (size_t i = 0; i < (size_t)n / sizeof(*entries); i++)
            none += !(entries[i] & mapped);
        page += (uint64_t)n / sizeof(*entries);
    }
    return none;
}

static uint64_t count_useless(const struct pager *p)
{
    char path[64];
    uint64_t none = 0;
    auto_fd int fd = -1;

    if (!p->faults || p->known_plain == 0)
        return 0;
    (void)snprintf(path, sizeof(path), "/proc/%d/pagemap", (int)p->qemu);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    for (size_t i = 0; fd >= 0 && i < p->n_known; i++) {
        uint64_t end = (uint64_t)p->known[i].page + p->known[i].count;

        none += unmapped(p, fd, p->known[i].page, end < p->known_plain ? end : p->known_plain);
    }
    return none;
}

void pager_stats(struct pager *p, struct pager_stats *ret_stats)
{
    const struct fault_counters *counters = p->faults ? faults_counters(p->faults) : NULL;

    *ret_stats = (struct pager_stats){
        .total = p->pages,
        .present = p->n_present,
        .settled = p->n_present - atomic_load(&p->left),
        .faults = counters ? atomic_load(&counters->missing) : 0,
        .removed = counters ? atomic_load(&counters->removed) : 0,
        .parked = counters ? atomic_load(&counters->parked) : 0,
        .zero = atomic_load(&p->n_zero),
        .neighbours = atomic_load(&p->n_neighbours),
        .known = atomic_load(&p->n_known_in),
        .background = atomic_load(&p->n_background),
        .useless = count_useless(p),
        .bytes_read = atomic_load(&p->bytes_read),
        .bytes_installed = atomic_load(&p->bytes_installed),
        .p50_us = latency_percentile(&p->latency, 50),
        .p99_us = latency_percentile(&p->latency, 99),
        .first_fault_us = atomic_load(&p->first_fault_us),
        .settled_us = atomic_load(&p->settled_us),
        .gave_up = atomic_load(&p->gave_up),
    };
}

int pager_working_set(struct pager *p, struct working_set *ret_set)
{
    return p->config.record ? recorder_get(&p->recorder, p->ram_size, ret_set) : -ENODATA;
}

int pager_missing(struct pager *p, uint64_t **ret_bitmap, size_t *ret_words)
{
    size_t n = (size_t)((p->pages + 63) / 64);
    uint64_t *bitmap = p->faults ? calloc(n, sizeof(*bitmap)) : NULL;

    if (!bitmap)
        return p->faults ? -ENOMEM : -ENOTCONN;
    /* Nobody is between installing a page and marking it. */
    pthread_mutex_lock(faults_lock(p->faults));
    pthread_mutex_lock(&p->serving);
    for (size_t i = 0; !atomic_load(&p->complete) && i < n; i++)
        bitmap[i] = p->present[i] & ~atomic_load(&p->state.settled[i]);
    pthread_mutex_unlock(&p->serving);
    pthread_mutex_unlock(faults_lock(p->faults));
    *ret_bitmap = bitmap;
    *ret_words = n;
    return 0;
}
