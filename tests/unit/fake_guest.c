#include "tests/unit/fake_guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"

enum { FEATURES = UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM };

static void must(bool fine, const char *what)
{
    if (fine)
        return;
    fprintf(stderr, "fake guest: %s: %s\n", what, strerror(errno));
    abort();
}

/* Nothing but threads of ours faults, so this needs no rights. */
static int open_uffd(void)
{
    struct uffdio_api api = { .api = UFFD_API, .features = FEATURES };
    auto_fd int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0)
        return -errno;
    return steal_fd(&fd);
}

const char *fake_guest_lacking(void)
{
    auto_fd int fd = open_uffd();

    return fd < 0 ? "SKIP kernel: no userfaultfd that write-protects shared memory" : NULL;
}

void fake_guest_new(struct fake_guest *g, uint64_t len)
{
    struct faults_config config = { .addr = 0, .len = len, .features = FEATURES, .pid = getpid() };

    *g = (struct fake_guest){ .len = len, .pages = len / FAKE_PAGE, .area = len / FAKE_PAGE };
    g->ram_fd = memfd_create("ram", MFD_CLOEXEC);
    must(g->ram_fd >= 0 && ftruncate(g->ram_fd, (off_t)len) == 0, "memfd");
    g->ram = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, g->ram_fd, 0);
    must(g->ram != MAP_FAILED, "mmap");
    g->uffd = open_uffd();
    must(g->uffd >= 0, "userfaultfd");
    config.uffd = g->uffd;
    config.addr = (uintptr_t)g->ram;
    must(faults_new(&config, &g->faults) == 0, "faults");
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_cond_init(&g->changed, NULL);
}

uint64_t fake_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

void fake_pattern(void *page, uint64_t seed)
{
    for (size_t i = 0; i < FAKE_PAGE / sizeof(uint64_t); i++)
        ((uint64_t *)page)[i] = fake_random(&seed);
}

/* Writers never share a page, but often a block. */
static void write_something(struct fake_writer *w, uint64_t turn)
{
    struct fake_guest *g = w->guest;
    uint64_t any = fake_random(&w->seed), share = g->area / FAKE_WRITERS;
    uint64_t page = (g->whole ? turn % share : (any >> 8) % share) * FAKE_WRITERS + w->number;
    unsigned char *at = g->ram + page * FAKE_PAGE;

    if (g->whole || any % 8 == 0)
        fake_pattern(at, any);
    else if (any % 8 == 1)
        memset(at, 0, FAKE_PAGE);
    else
        ((uint64_t *)at)[(any >> 3) % (FAKE_PAGE / sizeof(uint64_t))] = any;
    atomic_fetch_add(&g->writes, 1);
}

static bool may_go_on(struct fake_guest *g)
{
    bool ending;

    pthread_mutex_lock(&g->lock);
    if (g->stopped) {
        g->halted++;
        pthread_cond_broadcast(&g->changed);
        while (g->stopped && !g->ending)
            pthread_cond_wait(&g->changed, &g->lock);
        g->halted--;
        pthread_cond_broadcast(&g->changed);
    }
    ending = g->ending;
    pthread_mutex_unlock(&g->lock);
    return !ending;
}

static void *run(void *arg)
{
    struct fake_writer *w = arg;
    const uint64_t start = clock_mono_us(), rate = w->guest->rate;

    for (uint64_t turn = 0; may_go_on(w->guest); turn++) {
        write_something(w, turn);
        while (rate > 0 && turn * 1000000 / rate > clock_mono_us() - start)
            (void)poll(NULL, 0, 1);
    }
    return NULL;
}

void fake_guest_start(struct fake_guest *g)
{
    for (uint64_t i = 0; i < FAKE_WRITERS; i++) {
        g->writers[i] = (struct fake_writer){ g, .number = i, .seed = i + 1 };
        must(pthread_create(&g->writers[i].thread, NULL, run, &g->writers[i]) == 0, "thread");
    }
    g->started = true;
}

void fake_guest_stop(struct fake_guest *g)
{
    pthread_mutex_lock(&g->lock);
    g->stopped = true;
    while (g->started && g->halted < FAKE_WRITERS)
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void fake_guest_cont(struct fake_guest *g)
{
    pthread_mutex_lock(&g->lock);
    g->stopped = false;
    pthread_cond_broadcast(&g->changed);
    while (g->halted > 0) /* or a stop that follows would count who hasn't gone on yet */
        pthread_cond_wait(&g->changed, &g->lock);
    pthread_mutex_unlock(&g->lock);
}

void fake_guest_free(struct fake_guest *g)
{
    pthread_mutex_lock(&g->lock);
    g->ending = true;
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
    for (size_t i = 0; g->started && i < FAKE_WRITERS; i++)
        (void)pthread_join(g->writers[i].thread, NULL);
    faults_free(g->faults);
    for (uint64_t page = 0; page < g->pages; page++)
        (*(volatile unsigned char *)(g->ram + page * FAKE_PAGE))++;
    (void)munmap(g->ram, g->len);
    fd_close(g->ram_fd);
    fd_close(g->uffd);
}
