#include "shim/memory/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "shim/memory/uffd.h"

enum {
    STACK_SIZE = 128 * 1024,
    PARKED_MAX = 256, /* vCPUs and I/O threads of one QEMU: each waits at one page */
    PARKED_POLL_MS = 1,
    PARKED_FAIL_US = 2 * 1000 * 1000,
    SPIN_US = 20, /* after a batch: the next fault of a running guest is often that near */
    FEW_CPUS = 4, /* then this thread sits where the vCPU is: a wakeup there costs a sixth of one across (measured 8 against 48 us) */
    FOLLOW_EVERY_US = 5 * 1000,
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
    bool started;
    atomic_bool ending, waiting;
    int wake_fd;
    pthread_mutex_t lock;     /* see faults_lock() */
    pthread_mutex_t handlers; /* held while a batch is handled */
    struct parked parked[PARKED_MAX];
    size_t n_parked;
    bool failed;
    int cpus;
    uint64_t followed; /* when the placement was last looked at */
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
    (void)pthread_mutex_init(&f->lock, NULL);
    (void)pthread_mutex_init(&f->handlers, NULL);
    f->cpus = (int)sysconf(_SC_NPROCESSORS_ONLN);
    *ret_faults = f;
    return 0;
}

/* ---- placement ---- */

/* Field 39 of /proc/PID/task/TID/stat: the CPU it last ran on. -1: not known. */
static int cpu_of(pid_t pid, pid_t tid)
{
    char path[64], text[1024], *p;
    auto_fd int fd = -1;
    ssize_t n;
    int cpu = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    p = strrchr(text, ')');
    for (int field = 2; p && field < 39; field++)
        p = strchr(p + 1, ' ');
    if (!p)
        return -1;
    for (p++; *p >= '0' && *p <= '9'; p++)
        cpu = cpu * 10 + (*p - '0');
    return cpu;
}

static void follow(struct faults *f, const struct uffd_msg *m)
{
    uint64_t now;
    cpu_set_t set;
    int cpu;

    if (f->cpus > FEW_CPUS || !(f->config.features & UFFD_FEATURE_THREAD_ID))
        return;
    now = clock_mono_us();
    if (now - f->followed < FOLLOW_EVERY_US)
        return;
    f->followed = now;
    cpu = cpu_of(f->config.pid, (pid_t)m->arg.pagefault.feat.ptid);
    if (cpu < 0 || cpu == sched_getcpu())
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* refused by a cpuset, for one: then it stays where it is */
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
    else /* nobody's any more: whoever was in charge has let go of the range, and a new try finds it so */
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

    follow(f, m);
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
    }
}

static void handle_faults(struct faults *f)
{
    for (size_t i = 0; i < FAULTS_BATCH; i++) {
        if (f->batch[i].event == UFFD_EVENT_PAGEFAULT)
            handle_fault(f, &f->batch[i]);
        if (f->batch[i].event != 0)
            memset(&f->batch[i], 0, sizeof(f->batch[i]));
    }
}

/* How many events were read; 0: none; -errno. */
static int read_batch(struct faults *f)
{
    ssize_t n;

    atomic_store_explicit(&f->waiting, true, memory_order_relaxed);
    pthread_mutex_lock(&f->lock);
    atomic_store_explicit(&f->waiting, false, memory_order_relaxed);
    n = read(f->config.uffd, f->batch, FAULTS_BATCH * sizeof(*f->batch));
    if (n > 0)
        handle_removals(f);
    pthread_mutex_unlock(&f->lock);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    return (int)((size_t)n / sizeof(*f->batch));
}

static int step(struct faults *f)
{
    int n;

    pthread_mutex_lock(&f->handlers);
    n = read_batch(f);
    if (n > 0)
        handle_faults(f);
    if (f->n_parked > 0)
        retry_parked(f);
    pthread_mutex_unlock(&f->handlers);
    return n;
}

/* Where the vCPU shares our CPU, waiting awake would only keep it from running. */
static bool spin(const struct faults *f)
{
    uint64_t until = clock_mono_us() + SPIN_US;
    struct pollfd pollfd = { .fd = f->config.uffd, .events = POLLIN };

    if (f->cpus <= FEW_CPUS)
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

    /* What a predecessor had read is handled as if just read. */
    pthread_mutex_lock(&f->handlers);
    pthread_mutex_lock(&f->lock);
    handle_removals(f);
    pthread_mutex_unlock(&f->lock);
    handle_faults(f);
    pthread_mutex_unlock(&f->handlers);
    while (!atomic_load(&f->ending)) {
        int n = step(f);

        if (n < 0)
            break; /* QEMU is gone, and all its faults with it */
        if (n == 0 || !spin(f))
            wait_for_events(f);
    }
    return NULL;
}

int faults_start(struct faults *f)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int r;

    if (f->started)
        return 0;
    atomic_store(&f->ending, false);
    (void)pthread_attr_init(&attr);
    (void)pthread_attr_setstacksize(&attr, STACK_SIZE);
    /* Signals are the loop's. */
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(&f->thread, &attr, run, f);
    (void)pthread_sigmask(SIG_SETMASK, &old, NULL);
    (void)pthread_attr_destroy(&attr);
    f->started = r == 0;
    return -r;
}

bool faults_running(const struct faults *f) { return f->started; }

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
}

void faults_free(struct faults *f)
{
    if (!f)
        return;
    stop(f);
    fd_close(f->wake_fd);
    (void)pthread_mutex_destroy(&f->lock);
    (void)pthread_mutex_destroy(&f->handlers);
    free(f);
}

static void set(struct faults *f, struct fault_handler *slot, const struct fault_handler *handler)
{
    pthread_mutex_lock(&f->handlers);
    *slot = handler ? *handler : (struct fault_handler){ 0 };
    f->failed = false;
    pthread_mutex_unlock(&f->handlers);
}

void faults_set_missing(struct faults *f, const struct fault_handler *handler) { set(f, &f->missing, handler); }
void faults_set_protected(struct faults *f, const struct fault_handler *handler) { set(f, &f->protected, handler); }

const struct fault_counters *faults_counters(const struct faults *f) { return &f->counters; }
pthread_mutex_t *faults_lock(struct faults *f) { return &f->lock; }
bool faults_waiting(const struct faults *f) { return atomic_load_explicit(&f->waiting, memory_order_relaxed); }
