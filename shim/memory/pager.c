#include "shim/memory/pager.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/thread.h"
#include "shim/memory/pager_private.h"

enum {
    STACK_SIZE = 128 * 1024,
    CLOSE_GAPS = 32, /* pages: reading them too is cheaper than another read (FaaSnap's number) */
    FIRST_WINDOW = 16,
};

int pager_state_new(uint64_t ram_size) { return state_new(ram_size); }

void pager_notify(struct pager *p)
{
    if (p->config.notify)
        p->config.notify(p->config.arg);
}

void pager_wake_loader(struct pager *p)
{
    pthread_mutex_lock(&p->lock);
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
}

void pager_fail(struct pager *p, int error, const char *what, uint64_t page)
{
    bool first;

    pthread_mutex_lock(&p->lock);
    first = p->error == 0;
    if (first) {
        p->error = error;
        (void)err_set_errno(&p->error_text, error, "pager-failed", "%s (page %llu)", what, (unsigned long long)page);
    }
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    if (first && error != QEMU_GONE)
        pager_notify(p);
}

bool pager_is_ending(struct pager *p)
{
    bool ending;

    pthread_mutex_lock(&p->lock);
    ending = p->ending || p->error;
    pthread_mutex_unlock(&p->lock);
    return ending;
}

/* ---- made ---- */

/* Where files in RAM come in huge pages by themselves, a page that is written makes 2 MiB of zeros, which the kernel then takes for the guest's. Those
 * that QEMU asks for (advise) aren't meant: nothing is asked for when a file is written. */
static bool writes_single_pages(void)
{
    char text[128];
    auto_fd int fd = open("/sys/kernel/mm/transparent_hugepage/shmem_enabled", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

    if (n <= 0)
        return true;
    text[n] = '\0';
    return strstr(text, "[never]") || strstr(text, "[deny]") || strstr(text, "[advise]");
}

static int copy_present(struct pager *p, const struct memory_index *index)
{
    uint64_t first, count;

    p->present = calloc(p->state.n_words, sizeof(*p->present));
    p->heat = calloc((size_t)(p->pages / BLOCK + 1), 1);
    if (!p->present || !p->heat)
        return -ENOMEM;
    for (uint64_t from = 0; memory_index_run(index, from, true, &first, &count); from = first + count) {
        for (uint64_t i = first; i < first + count; i++)
            p->present[i / 64] |= UINT64_C(1) << (i % 64);
        p->n_present += count;
    }
    return 0;
}

static int check_files(struct pager *p, struct err *err)
{
    struct stat st;
    struct statfs fs;

    if (fstat(p->config.ram_fd, &st) < 0)
        return err_set_errno(err, errno, "bad-ram", "can't look at the guest's RAM");
    if ((uint64_t)st.st_size != p->ram_size)
        return err_set(err, EINVAL, "other-hardware", "the snapshot has %llu bytes of RAM, the VM %llu", (unsigned long long)p->ram_size,
                       (unsigned long long)st.st_size);
    if (fstat(p->config.source_fd, &st) < 0 || fstatfs(p->config.source_fd, &fs) < 0)
        return err_set_errno(err, errno, "bad-image", "can't look at the snapshot's memory");
    if ((uint64_t)st.st_size < p->ram_size)
        return err_set(err, EINVAL, "bad-image", "the snapshot's memory is cut short: %llu bytes of %llu", (unsigned long long)st.st_size,
                       (unsigned long long)p->ram_size);
    p->source_in_ram = fs.f_type == TMPFS_MAGIC;
    return 0;
}

static int take_known(struct pager *p, struct err *err)
{
    const struct working_set *known = p->config.known;

    if (!known)
        return 0;
    for (size_t i = 0; i < known->n_runs; i++)
        if (known->runs[i].page >= p->pages || known->runs[i].count > p->pages - known->runs[i].page)
            return err_set(err, EINVAL, "bad-working-set", "the working set is of another size of RAM");
    return working_set_compact(known, CLOSE_GAPS, &p->known, &p->n_known);
}

static int start_loader(struct pager *p)
{
    int r = thread_start(STACK_SIZE, pager_loader, p, &p->loader);

    p->loader_started = r == 0;
    return r;
}

static void init_locks(struct pager *p)
{
    pthread_condattr_t attr;

    (void)pthread_mutex_init(&p->lock, NULL);
    (void)pthread_mutex_init(&p->plain_lock, NULL);
    (void)pthread_mutex_init(&p->serving, NULL);
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    (void)pthread_cond_init(&p->cond, &attr);
    (void)pthread_condattr_destroy(&attr);
}

static int begin(struct pager *p, struct err *err)
{
    uint64_t left = 0;
    int r = check_files(p, err);

    if (r == 0)
        r = state_open(p->config.state_fd, p->ram_size, &p->state, err);
    if (r == 0)
        r = copy_present(p, p->config.index);
    if (r == 0)
        r = take_known(p, err);
    if (r == 0 && p->config.record)
        r = recorder_init(&p->recorder, p->pages, p->config.known);
    if (r < 0)
        return r;
    p->resumed = atomic_load(&p->state.header->attached);
    p->plain = writes_single_pages();
    p->window = FIRST_WINDOW;
    for (size_t i = 0; i < p->state.n_words; i++)
        left += (uint64_t)__builtin_popcountll(p->present[i] & ~atomic_load(&p->state.settled[i]));
    atomic_store(&p->left, left);
    return start_loader(p);
}

int pager_new(const struct pager_config *config, struct pager **ret_pager, struct err *err)
{
    auto_pager struct pager *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return err_from(err, -ENOMEM, "can't make a pager");
    p->config = *config;
    p->uffd = -1;
    p->ram_size = memory_index_ram_size(config->index);
    p->pages = memory_index_pages(config->index);
    init_locks(p);
    r = begin(p, err);
    p->config.index = NULL;
    p->config.known = NULL;
    if (r < 0)
        return err_from(err, r, "can't make a pager");
    *ret_pager = steal_ptr(&p);
    return 0;
}

void pager_free(struct pager *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    if (p->loader_started)
        (void)pthread_join(p->loader, NULL);
    faults_free(p->faults);
    source_buffer_free(p->buffer);
    if (p->config.record)
        recorder_done(&p->recorder);
    state_close(&p->state);
    free(p->present);
    free(p->heat);
    free(p->known);
    (void)pthread_cond_destroy(&p->cond);
    (void)pthread_mutex_destroy(&p->lock);
    (void)pthread_mutex_destroy(&p->plain_lock);
    (void)pthread_mutex_destroy(&p->serving);
    free(p);
}

/* ---- attached ---- */

static int make_faults(struct pager *p, uint64_t features)
{
    struct faults_config config = {
        .uffd = p->uffd, .addr = p->addr, .len = p->ram_size, .features = features, .pid = p->qemu, .batch = p->state.header->batch
    };
    struct fault_handler handler = pager_handler;
    int r = faults_new(&config, &p->faults);

    if (r < 0)
        return r;
    handler.arg = p;
    faults_set_missing(p->faults, &handler);
    return 0;
}

/* Nothing is to be watched. A predecessor may have died just before it let go of the range. */
static int attach_complete(struct pager *p)
{
    int r = p->resumed ? faults_unwatch(p->faults, UFFDIO_REGISTER_MODE_MISSING) : 0;

    if (r < 0)
        return r;
    atomic_store(&p->state.header->attached, 1);
    atomic_store(&p->state.header->complete, 1);
    pager_finish(p);
    pthread_mutex_lock(&p->lock);
    p->ending = true; /* nothing is left for the loader to do */
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    pager_notify(p);
    return 0;
}

static int attach_watching(struct pager *p)
{
    int r;

    p->buffer = source_buffer_new();
    if (!p->buffer)
        return -ENOMEM;
    /* From here on nobody may write plainly any more, not even a successor. */
    atomic_store(&p->state.header->attached, 1);
    r = faults_watch(p->faults, UFFDIO_REGISTER_MODE_MISSING);
    /* Faults that a predecessor had read and that died with it come again. */
    if (r == 0 && p->resumed)
        r = uffd_wake(p->uffd, p->addr, p->ram_size);
    return r;
}

int pager_attach(struct pager *p, int uffd, uint64_t features, uint64_t addr, pid_t qemu)
{
    bool whole = atomic_load(&p->state.header->complete) || (p->config.everything && !p->resumed);
    int r;

    if (p->faults)
        return -EALREADY;
    if (whole && !p->resumed && !atomic_load(&p->loaded))
        return -EBUSY;
    atomic_store(&p->attaching, true);
    pthread_mutex_lock(&p->plain_lock); /* what was begun is finished */
    pthread_mutex_unlock(&p->plain_lock);
    atomic_store(&p->left_at_attach, atomic_load(&p->left));
    p->uffd = uffd;
    p->addr = addr;
    p->qemu = qemu;
    p->attached_us = clock_mono_us();
    r = make_faults(p, features);
    if (r < 0)
        return r;
    if (whole)
        return attach_complete(p);
    r = attach_watching(p);
    if (r < 0)
        return r;
    pthread_mutex_lock(&p->lock);
    p->attached = true;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

void pager_finish(struct pager *p)
{
    pthread_mutex_t *lock = faults_lock(p->faults);

    faults_set_missing(p->faults, NULL);
    pthread_mutex_lock(lock); /* pager_missing() may be reading them */
    free(p->present);
    free(p->heat);
    p->present = NULL;
    p->heat = NULL;
    state_close_bitmap(&p->state);
    source_buffer_free(p->buffer);
    p->buffer = NULL;
    atomic_store(&p->settled, true);
    atomic_store(&p->complete, true);
    pthread_mutex_unlock(lock);
}
