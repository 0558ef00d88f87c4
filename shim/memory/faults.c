#include "shim/memory/faults.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/thread.h"
#include "shim/memory/placement.h"
#include "shim/memory/uffd.h"

enum {
    STACK_SIZE = 128 * 1024,
    PARKED_MAX = 256, /* vCPUs and I/O threads of one QEMU: each waits at one page */
    PARKED_POLL_MS = 1,
    PARKED_FAIL_US = 2 * 1000 * 1000,
    SPIN_US = 20, /* after a batch: the next fault of a running guest is often that near */
    DRAIN_US = 10 * 1000 * 1000,
};

struct parked {
    struct uffd_msg message;
    uint64_t since; /* monotonic us */
};

struct faults {
    struct faults_config config;
    struct uffd_msg own_batch[FAULTS_BATCH], *batch;
    struct fault_handler missing, protected;
    struct fault_counters counters;
    pthread_t thread;
    atomic_bool started; /* changed with `control` held */
    atomic_bool ending, waiting;
    atomic_int wanting; /* who waits for `handlers` */
    int wake_fd;
    pthread_mutex_t control;  /* watching and not watching, one at a time */
    pthread_mutex_t handlers; /* held while a batch is handled */
    pthread_mutex_t lock;     /* see faults_lock(); taken after `handlers` */
    atomic_ulong modes;       /* that are watched; changed with all three held */
    atomic_ulong read_time;
    struct parked parked[PARKED_MAX];
    size_t n_parked;
    bool failed;
    struct placement placement;
};

int faults_new(const struct faults_config *config, struct faults **ret_faults)
{
    struct faults *f = calloc(1, sizeof(*f));

    if (!f)
        return -ENOMEM;
    f->config = *config;
    f->batch = config->batch ? config->batch : f->own_batch;
    f->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (f->wake_fd < 0) {
        int r = -errno;

        free(f);
        return r;
    }
    (void)pthread_mutex_init(&f->control, NULL);
    (void)pthread_mutex_init(&f->handlers, NULL);
    (void)pthread_mutex_init(&f->lock, NULL);
    placement_init(&f->placement);
    *ret_faults = f;
    return 0;
}

/* ---- events ---- */

static void fail(struct faults *f, const struct fault_handler *h, int error, uint64_t addr)
{
    if (f->failed)
        return;
    f->failed = true;
    if (h->failed)
        h->failed(h->arg, error, addr);
}

static int serve(struct faults *f, const struct uffd_msg *m, const struct fault_handler **ret_handler)
{
    uint64_t addr = m->arg.pagefault.address & ~(uint64_t)(UFFD_PAGE - 1), flags = m->arg.pagefault.flags;
    bool protected = flags & UFFD_PAGEFAULT_FLAG_WP;
    const struct fault_handler *h = protected ? &f->protected : &f->missing;
    int r;

    *ret_handler = h;
    if (protected && h->protected)
        r = h->protected(h->arg, addr);
    else if (!protected && h->missing)
        r = h->missing(h->arg, addr, flags & UFFD_PAGEFAULT_FLAG_WRITE);
    else if (protected) /* by somebody who no longer watches: nobody needs it */
        r = uffd_protect(f->config.uffd, addr, UFFD_PAGE, false);
    else /* whoever was in charge has let go of the range, and a new try finds it so */
        r = uffd_wake(f->config.uffd, addr, UFFD_PAGE);
    return r;
}

/* A fault is told once: one that can't be served now is kept and tried again, see userfaultfd.rst on EAGAIN. */
static void park(struct faults *f, const struct uffd_msg *m, const struct fault_handler *h)
{
    if (f->n_parked == PARKED_MAX) {
        fail(f, h, -EAGAIN, m->arg.pagefault.address);
        return;
    }
    atomic_fetch_add_explicit(&f->counters.parked, 1, memory_order_relaxed);
    f->parked[f->n_parked++] = (struct parked){ *m, clock_mono_us() };
}

static void handle_fault(struct faults *f, const struct uffd_msg *m)
{
    bool protected = m->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP;
    const struct fault_handler *h;
    int r;

    if (f->config.features & UFFD_FEATURE_THREAD_ID)
        placement_follow(&f->placement, f->config.pid, (pid_t)m->arg.pagefault.feat.ptid);
    atomic_fetch_add_explicit(protected ? &f->counters.protected : &f->counters.missing, 1, memory_order_relaxed);
    r = serve(f, m, &h);
    if (r == -EAGAIN)
        park(f, m, h);
    else if (r < 0 && r != -ESRCH)
        fail(f, h, r, m->arg.pagefault.address);
}

static void retry_parked(struct faults *f)
{
    size_t kept = 0;

    for (size_t i = 0; i < f->n_parked; i++) {
        const struct fault_handler *h;
        int r = serve(f, &f->parked[i].message, &h);

        if (r == -EAGAIN && clock_mono_us() - f->parked[i].since < PARKED_FAIL_US)
            f->parked[kept++] = f->parked[i];
        else if (r < 0 && r != -ESRCH)
            fail(f, h, r, f->parked[i].message.arg.pagefault.address);
    }
    f->n_parked = kept;
}

/* Removals first: a fault that was read before the removal that caused it must not get the old content. */
static void handle_removals(struct faults *f)
{
    for (size_t i = 0; i < FAULTS_BATCH; i++) {
        const struct uffd_msg *m = &f->batch[i];

        if (m->event != UFFD_EVENT_REMOVE && m->event != UFFD_EVENT_UNMAP)
            continue;
        atomic_fetch_add_explicit(&f->counters.removed, 1, memory_order_relaxed);
        if (f->missing.removed)
            f->missing.removed(f->missing.arg, m->arg.remove.start, m->arg.remove.end);
        if (f->protected.removed)
            f->protected.removed(f->protected.arg, m->arg.remove.start, m->arg.remove.end);
    }
}

static void handle_faults(struct faults *f)
{
    for (size_t i = 0; i < FAULTS_BATCH; i++) {
        if (f->batch[i].event == UFFD_EVENT_PAGEFAULT)
            handle_fault(f, &f->batch[i]);
        /* One byte, in one store: were more of it cleared, we could die with a removal left that has lost its addresses. */
        *(volatile uint8_t *)&f->batch[i].event = 0;
    }
}

/* How many events were read; 0: none; -errno. */
static int read_batch(struct faults *f)
{
    ssize_t n;
    int error;

    atomic_store_explicit(&f->waiting, true, memory_order_relaxed);
    pthread_mutex_lock(&f->lock);
    atomic_store_explicit(&f->waiting, false, memory_order_relaxed);
    n = read(f->config.uffd, f->batch, FAULTS_BATCH * sizeof(*f->batch));
    error = errno;
    if (n > 0)
        handle_removals(f);
    pthread_mutex_unlock(&f->lock);
    if (n < 0)
        return error == EAGAIN || error == EINTR ? 0 : -error;
    atomic_store_explicit(&f->read_time, clock_mono_us(), memory_order_relaxed);
    return (int)((size_t)n / sizeof(*f->batch));
}

/* Whether there was, or still is, something to do; -errno. */
static int step(struct faults *f)
{
    int n;

    /* The mutex isn't fair, and we are back at once. */
    while (atomic_load(&f->wanting) > 0)
        sched_yield();
    pthread_mutex_lock(&f->handlers);
    n = read_batch(f);
    if (n > 0)
        handle_faults(f);
    if (f->n_parked > 0)
        retry_parked(f);
    if (n == 0 && f->missing.later && f->missing.later(f->missing.arg))
        n = 1;
    if (n < 0)
        fail(f, &f->missing, n, f->config.addr);
    pthread_mutex_unlock(&f->handlers);
    return n;
}

/* Where the vCPU shares our CPU, waiting awake would only keep it from running. */
static bool spin(const struct faults *f)
{
    uint64_t until = clock_mono_us() + SPIN_US;
    struct pollfd pollfd = { .fd = f->config.uffd, .events = POLLIN };

    if (placement_is_tight(&f->placement))
        return false;
    do
        if (poll(&pollfd, 1, 0) > 0)
            return true;
    while (clock_mono_us() < until);
    return false;
}

static void wait_for_events(struct faults *f)
{
    struct pollfd fds[] = { { .fd = f->config.uffd, .events = POLLIN }, { .fd = f->wake_fd, .events = POLLIN } };

    (void)poll(fds, 2, f->n_parked > 0 ? PARKED_POLL_MS : -1);
}

static void *run(void *arg)
{
    struct faults *f = arg;
    bool busy = false; /* since the last wait */

    /* What a predecessor had read is handled as if just read. */
    pthread_mutex_lock(&f->handlers);
    handle_faults(f);
    pthread_mutex_unlock(&f->handlers);
    while (!atomic_load(&f->ending)) {
        int n = step(f);

        if (n < 0)
            break;
        if (n == 0 && !(busy && spin(f)))
            wait_for_events(f);
        busy = n > 0;
    }
    return NULL;
}

/* ---- life of the thread ---- */

static int start(struct faults *f)
{
    uint64_t told;
    int r;

    if (f->started)
        return 0;
    /* Whoever installs pages from now on must know what a predecessor has read of removals. */
    pthread_mutex_lock(&f->lock);
    handle_removals(f);
    pthread_mutex_unlock(&f->lock);
    if (read(f->wake_fd, &told, sizeof(told)) < 0 && errno != EAGAIN)
        return -errno;
    atomic_store(&f->ending, false);
    r = thread_start(STACK_SIZE, run, f, &f->thread);
    f->started = r == 0;
    return r;
}

static void stop(struct faults *f)
{
    const uint64_t one = 1;

    if (!f->started)
        return;
    atomic_store(&f->ending, true);
    if (write(f->wake_fd, &one, sizeof(one)) < 0 && errno != EAGAIN)
        return; /* an eventfd takes a 1, or holds one already */
    (void)pthread_join(f->thread, NULL);
    f->started = false;
    f->n_parked = 0; /* who waits there was woken by the end of the range, or asks a successor that wakes it */
}

int faults_start(struct faults *f)
{
    int r;

    pthread_mutex_lock(&f->control);
    r = start(f);
    pthread_mutex_unlock(&f->control);
    return r;
}

bool faults_running(const struct faults *f) { return f->started; }

void faults_free(struct faults *f)
{
    if (!f)
        return;
    stop(f);
    fd_close(f->wake_fd);
    (void)pthread_mutex_destroy(&f->control);
    (void)pthread_mutex_destroy(&f->handlers);
    (void)pthread_mutex_destroy(&f->lock);
    free(f);
}

/* ---- who watches ---- */

static void lock_handlers(struct faults *f)
{
    atomic_fetch_add(&f->wanting, 1);
    pthread_mutex_lock(&f->handlers);
    atomic_fetch_sub(&f->wanting, 1);
}

/* No batch is being handled, and nobody on another thread installs pages. */
static void pause_all(struct faults *f)
{
    lock_handlers(f);
    pthread_mutex_lock(&f->lock);
}

static void resume_all(struct faults *f)
{
    pthread_mutex_unlock(&f->lock);
    pthread_mutex_unlock(&f->handlers);
}

static int add_modes(struct faults *f, uint64_t modes)
{
    uint64_t before = atomic_load(&f->modes);
    int r;

    pause_all(f);
    r = uffd_register(f->config.uffd, f->config.addr, f->config.len, before | modes);
    if (r == 0)
        atomic_store(&f->modes, before | modes);
    resume_all(f);
    /* A predecessor may have died while it took a snapshot, and left pages protected. Where it hadn't, there is nothing to lift. */
    if (r == 0 && before == 0 && !(modes & UFFDIO_REGISTER_MODE_WP))
        (void)uffd_protect(f->config.uffd, f->config.addr, f->config.len, false);
    return r;
}

int faults_watch(struct faults *f, uint64_t modes)
{
    int r;

    pthread_mutex_lock(&f->control);
    r = add_modes(f, modes);
    if (r == 0)
        r = start(f);
    pthread_mutex_unlock(&f->control);
    return r;
}

/* After unregistering no removal begins. But one may have begun, and told of it is only who reads: the kernel answers -EAGAIN to every
 * ioctl from before the event is queued until QEMU goes on. */
static int drain(struct faults *f)
{
    uint64_t until = clock_mono_us() + DRAIN_US;

    do {
        struct pollfd pollfd = { .fd = f->config.uffd, .events = POLLIN };
        int n;

        lock_handlers(f);
        n = read_batch(f);
        if (n > 0)
            handle_faults(f);
        pthread_mutex_unlock(&f->handlers);
        if (n < 0)
            return n;
        if (n == 0 && uffd_zero(f->config.uffd, f->config.addr, UFFD_PAGE).r != -EAGAIN)
            return 0;
        (void)poll(&pollfd, 1, PARKED_POLL_MS);
    } while (clock_mono_us() < until);
    return -ETIMEDOUT;
}

static int let_go(struct faults *f)
{
    int r = uffd_unregister(f->config.uffd, f->config.addr, f->config.len);

    if (r == -ESRCH || r == -ENOMEM) /* no process any more, or no address space */
        r = 0;
    else if (r < 0)
        return r;
    /* The kernel does that for missing pages alone. Who waits to write to a page whose fault a predecessor had read would wait for ever. */
    (void)uffd_wake(f->config.uffd, f->config.addr, f->config.len);
    stop(f);
    atomic_store(&f->modes, 0);
    return drain(f);
}

int faults_unwatch(struct faults *f, uint64_t modes)
{
    uint64_t left;
    int r = 0;

    pthread_mutex_lock(&f->control);
    left = atomic_load(&f->modes) & ~modes;
    if (left == 0) {
        r = let_go(f);
    } else if (left == UFFDIO_REGISTER_MODE_WP && (atomic_load(&f->modes) & UFFDIO_REGISTER_MODE_MISSING)) {
        r = -EBUSY;
    } else if (left != atomic_load(&f->modes)) {
        /* First nobody installs protected pages any more, then none are left. */
        pause_all(f);
        atomic_store(&f->modes, left);
        resume_all(f);
        r = uffd_protect(f->config.uffd, f->config.addr, f->config.len, false);
        r = r == -ESRCH ? 0 : r;
    }
    pthread_mutex_unlock(&f->control);
    return r;
}

uint64_t faults_modes(const struct faults *f) { return atomic_load(&f->modes); }

static void set(struct faults *f, struct fault_handler *slot, const struct fault_handler *handler)
{
    lock_handlers(f);
    *slot = handler ? *handler : (struct fault_handler){ 0 };
    f->failed = false;
    pthread_mutex_unlock(&f->handlers);
}

void faults_set_missing(struct faults *f, const struct fault_handler *handler) { set(f, &f->missing, handler); }
void faults_set_protected(struct faults *f, const struct fault_handler *handler) { set(f, &f->protected, handler); }

const struct fault_counters *faults_counters(const struct faults *f) { return &f->counters; }
bool faults_share_cpu(const struct faults *f) { return placement_is_tight(&f->placement); }
uint64_t faults_read_time(const struct faults *f) { return atomic_load_explicit(&f->read_time, memory_order_relaxed); }
pthread_mutex_t *faults_lock(struct faults *f) { return &f->lock; }
bool faults_waiting(const struct faults *f) { return atomic_load_explicit(&f->waiting, memory_order_relaxed); }
