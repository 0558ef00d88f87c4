/* The proof that no byte of a guest's memory is wrong. A region is filled with words that follow from a seed, the page's number and the
 * page's generation; part of it is rewritten all the time with the next generation; all of it is checked without end. Which
 * generation each page should have is remembered beside the region, so that a page that is whole but old is found as well as one of zeros.
 *
 *   pattern filled N MiB, seed S, T threads
 *   pattern pass N ok                          all pages were right, each looked at once since the last such line
 *   pattern pass N WRONG: W pages
 *   pattern WRONG page X word Y: got HEX expected HEX (zeros | generation A, not B | page P | wrong words)      at most WRONG_MAX of them
 *   pattern held | pattern goes on
 *   touched N pages in U us | touched N pages in U us, W WRONG
 *
 * One thread for each CPU, each with its own part of the region, so that they write at the same time. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "tests/guest/work.h"

enum {
    PAGE = 4096,
    WORDS = PAGE / sizeof(uint64_t),
    MIB_PAGES = 1024 * 1024 / PAGE,
    BATCH = 64,       /* pages checked between two looks at the orders */
    REWRITES = 4,     /* pages rewritten after each batch */
    LEAVE_MIB = 24,   /* for everything else in the guest, when asked for all there is */
    WRONG_MAX = 16,   /* lines about it: eight pages damaged on purpose are told in each of two passes */
    THREADS_MAX = 16, /* as many CPUs as tests give a guest */
};

static const uint64_t odd = 0x9e3779b97f4a7c15; /* 2^64 divided by the golden ratio: multiples of it are spread evenly */

struct pattern {
    int tty, orders;
    uint64_t seed, pages;
    uint64_t *region;
    uint32_t *generation; /* that each page should have */
    uint8_t *touched;     /* a bit for each page, and … */
    uint32_t *picked;     /* … the areas, of the touch under way */
    unsigned threads;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool held;
    atomic_uint quiet; /* passes that only look: what changed while it stood still is found before it is rewritten by chance */
    unsigned standing; /* threads that wait for being let go */
    pthread_barrier_t pass;
    atomic_uint wrong; /* pages, in this pass */
    atomic_uint told;
};

struct part {
    struct pattern *p;
    unsigned number;
    uint64_t first, end; /* pages */
    uint64_t chance;
};

static uint64_t mix(uint64_t v)
{
    v = (v ^ (v >> 30)) * 0xbf58476d1ce4e5b9;
    v = (v ^ (v >> 27)) * 0x94d049bb133111eb;
    return v ^ (v >> 31);
}

static uint64_t chance(uint64_t *state) { return mix(*state += odd); }

static uint64_t *page_at(const struct pattern *p, uint64_t page) { return p->region + page * WORDS; }

/* A page's first word says which page of which generation it is, hidden by the seed; the others are a progression that follows from it: few
 * instructions a word, since they are emulated. */
static uint64_t head_of(const struct pattern *p, uint64_t page, uint32_t generation) { return (page << 32 | generation) ^ mix(p->seed); }

static uint64_t step_of(uint64_t head) { return mix(head ^ odd) | 1; }

static void write_page(const struct pattern *p, uint64_t page, uint32_t generation)
{
    uint64_t *words = page_at(p, page), word = head_of(p, page, generation), step = step_of(word);

    for (unsigned i = 0; i < WORDS; i++, word += step)
        words[i] = word;
}

/* The first word that isn't the page's of that generation; WORDS: there is none. */
static unsigned first_wrong(const uint64_t *words, uint64_t head)
{
    uint64_t word = head, step = step_of(head);

    for (unsigned i = 0; i < WORDS; i++, word += step)
        if (words[i] != word)
            return i;
    return WORDS;
}

static bool is_zero(const uint64_t *words)
{
    for (unsigned i = 0; i < WORDS; i++)
        if (words[i])
            return false;
    return true;
}

static void tell_wrong(struct pattern *p, uint64_t page, unsigned word)
{
    const uint64_t *words = page_at(p, page);
    uint32_t expected = p->generation[page];
    uint64_t head = head_of(p, page, expected), got = words[word], holds = words[0] ^ mix(p->seed);
    char what[64] = "wrong words";

    if (atomic_fetch_add(&p->wrong, 1), atomic_fetch_add(&p->told, 1) >= WRONG_MAX)
        return;
    if (is_zero(words))
        snprintf(what, sizeof(what), "zeros");
    else if (first_wrong(words, words[0]) == WORDS && holds >> 32 == page)
        snprintf(what, sizeof(what), "generation %u, not %u", (uint32_t)holds, expected);
    else if (first_wrong(words, words[0]) == WORDS && holds >> 32 < p->pages)
        snprintf(what, sizeof(what), "page %u", (uint32_t)(holds >> 32));
    tell(p->tty, "pattern WRONG page %llu word %u: got %016llx expected %016llx (%s)", (unsigned long long)page, word,
         (unsigned long long)got, (unsigned long long)(head + word * step_of(head)), what);
}

static void check_page(struct pattern *p, uint64_t page)
{
    unsigned word = first_wrong(page_at(p, page), head_of(p, page, p->generation[page]));

    if (word != WORDS)
        tell_wrong(p, page, word);
}

/* The page is written and then the number: an instant in between is saved with the thread that will write the number. */
static void rewrite_some(struct part *part)
{
    struct pattern *p = part->p;

    for (unsigned i = 0; i < REWRITES; i++) {
        uint64_t page = part->first + chance(&part->chance) % (part->end - part->first);
        check_page(p, page); /* or an old page would be covered up */
        write_page(p, page, p->generation[page] + 1);
        p->generation[page]++;
    }
}

static void add_standing(struct pattern *p, int n)
{
    pthread_mutex_lock(&p->lock);
    p->standing += (unsigned)n;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static void stand_while_held(struct pattern *p)
{
    pthread_mutex_lock(&p->lock);
    if (p->held) {
        p->standing++;
        pthread_cond_broadcast(&p->changed);
        while (p->held)
            pthread_cond_wait(&p->changed, &p->lock);
        p->standing--;
    }
    pthread_mutex_unlock(&p->lock);
}

static void tell_pass(struct pattern *p, unsigned long long pass)
{
    unsigned wrong = atomic_exchange(&p->wrong, 0);

    if (atomic_load(&p->quiet) > 0)
        atomic_fetch_sub(&p->quiet, 1);

    if (wrong)
        tell(p->tty, "pattern pass %llu WRONG: %u pages", pass, wrong);
    else
        tell(p->tty, "pattern pass %llu ok", pass);
}

static void set_held(struct pattern *p, bool held)
{
    pthread_mutex_lock(&p->lock);
    p->held = held;
    if (held)
        atomic_store(&p->quiet, 2); /* the one it stands in, and a whole one */
    pthread_cond_broadcast(&p->changed);
    while (held && p->standing < p->threads)
        pthread_cond_wait(&p->changed, &p->lock);
    pthread_mutex_unlock(&p->lock);
    tell(p->tty, held ? "pattern held" : "pattern goes on");
}

static void *work(void *arg)
{
    struct part *part = arg;
    struct pattern *p = part->p;

    for (unsigned long long pass = 1;; pass++) {
        for (uint64_t page = part->first; page < part->end;) {
            stand_while_held(p);
            for (unsigned i = 0; i < BATCH && page < part->end; i++)
                check_page(p, page++);
            if (atomic_load(&p->quiet) == 0)
                rewrite_some(part);
        }
        add_standing(p, 1); /* one that waits for the others touches nothing either */
        if (pthread_barrier_wait(&p->pass) == PTHREAD_BARRIER_SERIAL_THREAD)
            tell_pass(p, pass);
        pthread_barrier_wait(&p->pass); /* so that what the next pass finds wrong isn't counted in this one */
        add_standing(p, -1);
    }
    return NULL;
}

static long long now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

/* Numbers below `end`, no two alike, in an order that nothing can guess. */
static void pick(struct pattern *p, uint64_t wanted, uint64_t end, uint64_t *state)
{
    memset(p->touched, 0, (p->pages + 7) / 8);
    for (uint64_t n = 0; n < wanted;) {
        uint64_t one = chance(state) % end;
        if (p->touched[one / 8] & (1 << one % 8))
            continue;
        p->touched[one / 8] |= (uint8_t)(1 << one % 8);
        p->picked[n++] = (uint32_t)one;
    }
}

/* Reads two words of each of so many pages, in areas of `area` pages that lie anywhere, the pages of all areas in any order. That the words
 * fit each other is all that is checked, so that no memory but theirs is needed. */
static void touch(struct pattern *p, unsigned long mib, unsigned long area)
{
    uint64_t wanted = (uint64_t)mib * MIB_PAGES, state = p->seed ^ (uint64_t)now_us();
    unsigned wrong = 0;

    if (area == 0 || wanted % area || wanted > p->pages / 2) {
        tell(p->tty, "touch: at most half of the pattern, in areas that fit");
        return;
    }
    pick(p, wanted / area, p->pages / area, &state);
    long long begin = now_us();
    for (uint64_t i = 0; i < wanted; i++) {
        uint64_t nth = i * 7919 % wanted; /* a prime: each comes once */
        uint64_t page = p->picked[nth / area] * (uint64_t)area + nth % area;
        const volatile uint64_t *words = page_at(p, page);
        uint64_t head = words[0];
        wrong += words[WORDS - 1] != head + (WORDS - 1) * step_of(head) || (head ^ mix(p->seed)) >> 32 != page;
    }
    long long us = now_us() - begin;
    if (wrong)
        tell(p->tty, "touched %llu pages in %lld us, %u WRONG", (unsigned long long)wanted, us, wrong);
    else
        tell(p->tty, "touched %llu pages in %lld us", (unsigned long long)wanted, us);
}

static void obey_touch(struct pattern *p, const char *arguments)
{
    char copy[WORK_LINE_MAX], *save = NULL;
    unsigned long mib, kib = PAGE / 1024;

    snprintf(copy, sizeof(copy), "%s", arguments);
    char *first = strtok_r(copy, " ", &save), *second = strtok_r(NULL, " ", &save);
    if (first && number(first, &mib) && (!second || number(second, &kib)))
        touch(p, mib, kib / (PAGE / 1024));
    else
        tell(p->tty, "touch: expected MIB [KIB]");
}

static void obey_order(struct pattern *p, const char *order)
{
    if (strcmp(order, "hold") == 0)
        set_held(p, true);
    else if (strcmp(order, "go") == 0)
        set_held(p, false);
    else if (strncmp(order, "touch ", 6) == 0)
        obey_touch(p, order + 6);
    else
        tell(p->tty, "pattern: unknown order: %s", order);
}

static unsigned long free_mib(void)
{
    char line[128];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");

    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, "MemAvailable:", 13) == 0)
            kib = strtoul(line + 13, NULL, 10);
    if (f)
        fclose(f);
    return kib / 1024 > LEAVE_MIB ? kib / 1024 - LEAVE_MIB : 0;
}

static void *populated(size_t len)
{
    void *at = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    return at == MAP_FAILED || mlock(at, len) < 0 ? NULL : at;
}

static bool make(struct pattern *p, char *arguments)
{
    char *save = NULL, *seed = strtok_r(arguments, ", ", &save), *size = strtok_r(NULL, ", ", &save), *more = strtok_r(NULL, ", ", &save);
    unsigned long s, mib;

    if (!seed || !size || !number(seed, &s) || !number(size, &mib) || (more && strcmp(more, "hold") != 0))
        return false;
    if (mib == 0)
        mib = free_mib();
    cpu_set_t cpus;
    p->threads = sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? (unsigned)CPU_COUNT(&cpus) : 1;
    p->threads = p->threads > THREADS_MAX ? THREADS_MAX : p->threads;
    p->seed = s;
    p->held = more != NULL;
    p->pages = (uint64_t)mib * MIB_PAGES;
    p->region = populated(p->pages * PAGE);
    p->generation = populated(p->pages * sizeof(*p->generation));
    p->touched = populated((p->pages + 7) / 8);
    p->picked = populated(p->pages * sizeof(*p->picked));
    if (!p->region || !p->generation || !p->touched || !p->picked)
        return false;
    for (uint64_t page = 0; page < p->pages; page++)
        write_page(p, page, 0);
    return pthread_mutex_init(&p->lock, NULL) == 0 && pthread_cond_init(&p->changed, NULL) == 0 &&
           pthread_barrier_init(&p->pass, NULL, p->threads) == 0;
}

int pattern_run(int tty, int orders, const char *arguments)
{
    static struct pattern p;
    static struct part parts[THREADS_MAX];
    char copy[WORK_LINE_MAX];

    p.tty = tty;
    p.orders = orders;
    snprintf(copy, sizeof(copy), "%s", arguments);
    if (!make(&p, copy)) {
        tell(tty, "pattern: can't make one of %s: %s", arguments, strerror(errno));
        return 1;
    }
    tell(tty, "pattern filled %llu MiB, seed %llu, %u threads", (unsigned long long)(p.pages / MIB_PAGES), (unsigned long long)p.seed,
         p.threads);
    for (unsigned i = 0; i < p.threads; i++) {
        pthread_t thread;
        parts[i] = (struct part){
            .p = &p, .number = i, .first = p.pages * i / p.threads, .end = p.pages * (i + 1) / p.threads, .chance = p.seed + i
        };
        if (p.held && i == 0)
            tell(tty, "pattern held");
        if (pthread_create(&thread, NULL, work, &parts[i]) != 0)
            return 1;
    }
    FILE *lines = fdopen(orders, "r");
    char order[WORK_LINE_MAX];
    while (lines && fgets(order, sizeof(order), lines)) {
        order[strcspn(order, "\n")] = '\0';
        obey_order(&p, order);
    }
    return 0;
}

int stain_run(int tty, const char *arguments)
{
    char copy[WORK_LINE_MAX], *save = NULL;
    unsigned long word, mib;

    snprintf(copy, sizeof(copy), "%s", arguments);
    char *first = strtok_r(copy, " ", &save), *second = strtok_r(NULL, " ", &save);
    if (!first || !second || !number(first, &word) || !number(second, &mib)) {
        tell(tty, "stain: expected WORD MIB");
        return 1;
    }
    size_t len = (size_t)mib * MIB_PAGES * PAGE;
    uint64_t *at = populated(len);
    if (!at) {
        tell(tty, "stain: no memory for %lu MiB", mib);
        return 1;
    }
    for (size_t page = 0; page < len / PAGE; page++)
        at[page * WORDS] = word;
    tell(tty, "stained %lu MiB", mib);
    for (;;)
        pause();
}
