/* The pager's costs beside those of the bare system calls, in one process with a fake guest, as JSON. See README.md.
 *
 *   pager_bench [--pages N] [--runs N]
 *
 * Each figure is the median of several runs, the two of a pair taken in turn. */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "shim/memory/faults.h"
#include "shim/memory/pager.h"
#include "shim/memory/uffd.h"
#include "tests/unit/guest_memory.h"

enum { TOUCHED = 16384, FAULTS_MAX = 2048, RUNS_MAX = 64, MIB = 256 /* pages */ };

static struct guest guest;
static uint64_t pages = 131072, runs = 7;

static void must(bool good, const char *what)
{
    if (good)
        return;
    perror(what);
    exit(1);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof(*values), compare);
    return values[n / 2];
}

static double now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec * 1e6 + (double)ts.tv_nsec / 1e3;
}

static double cpu_us(int who)
{
    struct rusage u;

    must(getrusage(who, &u) == 0, "getrusage");
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

/* The image in a file on disk, as it is of a snapshot; in the page cache. */
static void move_image_to_disk(const char *image)
{
    int fd = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    must(fd >= 0 && fd_write_all(fd, image, guest.size) == 0, "/var/tmp");
    fd_close(guest.source);
    guest.source = fd;
}

static void renew(void)
{
    munmap(guest.map, guest.size);
    fd_close(guest.ram);
    fd_close(guest.uffd);
    fd_close(guest.state);
    guest.state = pager_state_new(guest.size);
    guest_map(&guest);
}

static uint64_t touch(uint64_t page) { return ((volatile uint64_t *)guest.map)[page * 512]; }

static void must_be_right(uint64_t page)
{
    if (touch(page) == guest_word(&guest, page, 0))
        return;
    fprintf(stderr, "page %llu is wrong\n", (unsigned long long)page);
    exit(1);
}

static struct pager *begin(bool prefetch, bool attach)
{
    struct pager_config c = {
        .ram_fd = guest.ram, .source_fd = guest.source, .state_fd = guest.state, .index = guest.index, .prefetch = prefetch
    };
    struct pager *p = NULL;

    must(pager_new(&c, &p, NULL) == 0, "pager_new");
    if (attach)
        must(pager_attach(p, guest.uffd, guest.features, guest_addr(&guest), getpid()) == 0, "pager_attach");
    return p;
}

/* ---- a fault ---- */

static char buffer[IMAGE_PAGE] __attribute__((aligned(4096)));

static int copy_only(void *arg, uint64_t addr, bool write) { return uffd_copy(guest.uffd, addr, buffer, UFFD_PAGE).r; }

/* One page in each MiB, so that each touch faults; and from one to the next some work of the guest's own. */
static double touch_apart(void)
{
    static double each[FAULTS_MAX];
    uint64_t n = pages / MIB < FAULTS_MAX ? pages / MIB : FAULTS_MAX;

    for (uint64_t i = 0; i < n; i++) {
        double before = now_us(), until;

        (void)touch((i * 769 % n) * MIB + i * 31 % MIB);
        each[i] = now_us() - before;
        for (until = now_us() + 50; now_us() < until;)
            ;
    }
    return median(each, n);
}

static double raw_fault(void)
{
    struct faults_config c = {
        .uffd = guest.uffd, .addr = guest_addr(&guest), .len = guest.size, .features = guest.features, .pid = getpid()
    };
    struct fault_handler h = { .missing = copy_only };
    struct faults *f = NULL;
    double us;

    renew();
    c.uffd = guest.uffd;
    c.addr = guest_addr(&guest);
    must(faults_new(&c, &f) == 0, "faults_new");
    faults_set_missing(f, &h);
    must(faults_watch(f, UFFDIO_REGISTER_MODE_MISSING) == 0, "faults_watch");
    us = touch_apart();
    must(faults_unwatch(f, UFFDIO_REGISTER_MODE_MISSING) == 0, "faults_unwatch");
    faults_free(f);
    return us;
}

static double pager_fault(double *ret_inside_us)
{
    struct pager_stats s;
    struct pager *p;
    double us;

    renew();
    p = begin(false, true);
    us = touch_apart();
    pager_stats(p, &s);
    *ret_inside_us = (double)s.p50_us;
    pager_free(p);
    return us;
}

/* ---- many ---- */

/* The same pages from memory, or one MiB over and over, which the processor's cache then holds: no restore can come by its pages so. */
static double raw_prefetch(const char *from, bool over_and_over, double *ret_cpu)
{
    double before, cpu;

    renew();
    must(uffd_register(guest.uffd, guest_addr(&guest), guest.size, UFFDIO_REGISTER_MODE_MISSING) == 0, "register");
    before = now_us();
    cpu = cpu_us(RUSAGE_THREAD);
    for (uint64_t i = 0; i < pages; i += MIB)
        must(uffd_copy(guest.uffd, guest_addr(&guest) + i * UFFD_PAGE, from + (over_and_over ? 0 : i * UFFD_PAGE), MIB * UFFD_PAGE).r == 0,
             "copy");
    *ret_cpu = cpu_us(RUSAGE_THREAD) - cpu;
    return (double)guest.size / (now_us() - before); /* MB/s */
}

static double pager_prefetch(double *ret_cpu)
{
    double before, cpu, took;
    struct pager *p;

    renew();
    cpu = cpu_us(RUSAGE_SELF);
    p = begin(true, true);
    (void)touch(0);
    pager_settle(p);
    before = now_us();
    while (!pager_complete(p))
        (void)poll(NULL, 0, 1);
    took = now_us() - before;
    *ret_cpu = cpu_us(RUSAGE_SELF) - cpu;
    pager_free(p);
    return (double)guest.size / took;
}

/* `spread`: single pages anywhere; else 64 MiB, in areas of one MiB anywhere, their pages in any order. */
static double touch_scattered(bool spread, uint64_t *ret_faults)
{
    struct pager_stats s;
    struct pager *p;
    double before, took;

    renew();
    p = begin(false, true);
    before = now_us();
    for (uint64_t i = 0; i < TOUCHED && i < pages; i++) {
        uint64_t nth = i * 7919 % TOUCHED, area = nth / MIB;

        must_be_right(spread ? guest_nth(&guest, i) : (area * (pages / 64) + nth % MIB) % pages);
    }
    took = now_us() - before;
    pager_stats(p, &s);
    *ret_faults = s.faults;
    pager_free(p);
    return took / 1000;
}

static void print_pair(const char *name, double raw, double pager, const char *unit)
{
    printf("  \"%s\": {\"raw\": %.2f, \"pager\": %.2f, \"ratio\": %.3f, \"unit\": \"%s\"},\n", name, raw, pager, pager / raw, unit);
}

int main(int argc, char **argv)
{
    double raw[RUNS_MAX], hot[RUNS_MAX], own[RUNS_MAX], inside[RUNS_MAX], raw_cpu[RUNS_MAX], own_cpu[RUNS_MAX];
    uint64_t faults = 0;
    char *image;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t n = 0;

        must(parse_u64(argv[i + 1], 1, UINT64_C(1) << 32, &n) == 0, argv[i]);
        if (streq(argv[i], "--pages"))
            pages = n < TOUCHED ? TOUCHED : n;
        else
            runs = n < RUNS_MAX ? n : RUNS_MAX;
    }
    guest_need_userfaultfd();
    guest_make(&guest, pages, 0);
    guest_map(&guest);
    image = malloc(guest.size);
    must(image && pread(guest.source, image, guest.size, 0) == (ssize_t)guest.size, "image");
    move_image_to_disk(image);
    printf("{\n  \"pages\": %llu, \"runs\": %llu,\n", (unsigned long long)pages, (unsigned long long)runs);
    for (size_t i = 0; i < runs; i++) {
        raw[i] = raw_fault();
        own[i] = pager_fault(&inside[i]);
    }
    print_pair("fault_p50", median(raw, runs), median(own, runs), "us");
    printf("  \"fault_inside_p50_us\": %.0f,\n", median(inside, runs));
    for (size_t i = 0; i < runs; i++) {
        hot[i] = raw_prefetch(image, true, &raw_cpu[i]);
        raw[i] = raw_prefetch(image, false, &raw_cpu[i]);
        own[i] = pager_prefetch(&own_cpu[i]);
    }
    printf("  \"prefetch_raw_from_cache\": %.0f,\n", median(hot, runs));
    print_pair("prefetch", median(raw, runs), median(own, runs), "MB/s");
    print_pair("restore_cpu", median(raw_cpu, runs) / 1000, median(own_cpu, runs) / 1000, "ms");
    for (int spread = 0; spread < 2; spread++) {
        for (size_t i = 0; i < runs; i++)
            own[i] = touch_scattered(spread, &faults);
        printf("  \"touch_64MiB_%s\": {\"ms\": %.1f, \"faults\": %llu}%s\n", spread ? "single_pages" : "areas", median(own, runs),
               (unsigned long long)faults, spread ? "" : ",");
    }
    printf("}\n");
    free(image);
    guest_done(&guest);
    return 0;
}
