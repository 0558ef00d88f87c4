/* What the tests of save.h share: a guest, a save of it, and what must come of it. */
#pragma once

#include <stdio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "shim/memory/save.h"
#include "tests/unit/fake_guest.h"
#include "tests/unit/fixture.h"

enum { MIB = 1024 * 1024, PAGES = 16 * MIB / FAKE_PAGE + 5, WORDS = (PAGES + 63) / 64 };

/* A guest, and a save of it. */
static struct {
    struct fake_guest guest;
    struct save_config config;
    struct save *save;
    unsigned char *expected; /* RAM as it was at the freeze */
    uint64_t from_source[WORDS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool disk_stands; /* the save's thread is held in notify() */
    unsigned told;
} t = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

#define await(condition)                                                                            \
    for (uint64_t until_ = clock_mono_us() + FIXTURE_DEADLINE_MS * UINT64_C(1000); !(condition);) { \
        ck_assert_msg(clock_mono_us() < until_, "not within the deadline: %s", #condition);         \
        (void)poll(NULL, 0, 1);                                                                     \
    }

static inline void on_notify(void *arg)
{
    pthread_mutex_lock(&t.lock);
    t.told++;
    while (t.disk_stands)
        pthread_cond_wait(&t.changed, &t.lock);
    pthread_mutex_unlock(&t.lock);
}

static inline void disk_goes_on(void)
{
    pthread_mutex_lock(&t.lock);
    t.disk_stands = false;
    pthread_cond_broadcast(&t.changed);
    pthread_mutex_unlock(&t.lock);
}

/* A third of RAM has something in it, a third is zeros that were written, a third are holes; in runs and alone. */
static inline void fill(struct fake_guest *g)
{
    uint64_t seed = 7;

    for (uint64_t page = 0, left = 0, kind = 0; page < g->pages; page++, left--) {
        if (left == 0) {
            left = 1 + fake_random(&seed) % (fake_random(&seed) % 4 == 0 ? 300 : 5);
            kind = fake_random(&seed) % 3;
        }
        if (kind == 0)
            fake_pattern(g->ram + page * FAKE_PAGE, fake_random(&seed));
        else if (kind == 1)
            memset(g->ram + page * FAKE_PAGE, 0, FAKE_PAGE);
    }
}

static inline void set_up(uint64_t pages)
{
    fake_guest_new(&t.guest, pages * FAKE_PAGE);
    t.config = (struct save_config){
        .faults = t.guest.faults,
        .uffd = t.guest.uffd,
        .addr = (uintptr_t)t.guest.ram,
        .len = t.guest.len,
        .ram_fd = t.guest.ram_fd,
        .mem_fd = -1,
        .source_fd = -1,
        .out_fd = openat(fixture.dir, "memory.raw", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600),
        .notify = on_notify,
    };
    ck_assert_int_ge(t.config.out_fd, 0);
    ck_assert_int_eq(memory_index_new(t.guest.len, &t.config.index), 0);
    t.expected = malloc(t.guest.len);
    ck_assert_ptr_nonnull(t.expected);
}

static inline void tear_down(void)
{
    save_free(t.save);
    t.save = NULL;
    fake_guest_free(&t.guest);
    memory_index_free(t.config.index);
    fd_close(t.config.out_fd);
    free(t.expected);
}

static inline void begin(void)
{
    struct err err = ERR_INIT;
    int r = save_new(&t.config, &t.save, &err);

    ck_assert_msg(r == 0, "%s", err.text);
}

static inline void protect(void)
{
    save_protect(t.save);
    await(save_protected(t.save) || save_done(t.save));
}

/* What the guest's RAM holds now, but for pages that aren't there and are the source's: those are `expected` already. */
static inline void remember(void)
{
    for (uint64_t page = 0; page < t.guest.pages; page++)
        if (!t.config.from_source || !((t.from_source[page / 64] >> page % 64) & 1))
            ck_assert_int_eq(pread(t.guest.ram_fd, t.expected + page * FAKE_PAGE, FAKE_PAGE, (off_t)(page * FAKE_PAGE)), FAKE_PAGE);
}

static inline void freeze(void)
{
    fake_guest_stop(&t.guest);
    remember();
    ck_assert_int_eq(save_freeze(t.save), 0);
    fake_guest_cont(&t.guest);
}

static inline void assert_went_well(void)
{
    struct err err = ERR_INIT;

    await(save_done(t.save));
    ck_assert_msg(save_error(t.save, &err) == 0, "%s", err.text);
}

/* memory.raw and its index say just what `expected` does. */
static inline void assert_saved(void)
{
    unsigned char page[FAKE_PAGE];
    uint64_t present = 0;
    struct save_progress progress;

    assert_went_well();
    ck_assert_int_eq(lseek(t.config.out_fd, 0, SEEK_END), (off_t)t.guest.len);
    for (uint64_t i = 0; i < t.guest.pages; i++) {
        const unsigned char *expected = t.expected + i * FAKE_PAGE;
        bool zero = memory_page_is_zero(expected);

        ck_assert_int_eq(pread(t.config.out_fd, page, FAKE_PAGE, (off_t)(i * FAKE_PAGE)), FAKE_PAGE);
        ck_assert_msg(memcmp(page, expected, FAKE_PAGE) == 0, "page %ju isn't what it was at the freeze", (uintmax_t)i);
        ck_assert_msg(memory_index_has(t.config.index, i) == !zero, "page %ju", (uintmax_t)i);
        if (!zero)
            ck_assert_uint_eq(memory_index_sum(t.config.index, i), memory_page_sum(expected));
        present += !zero;
    }
    progress = save_progress(t.save);
    ck_assert_uint_eq(progress.total, t.guest.pages);
    ck_assert_uint_eq(progress.done, t.guest.pages);
    ck_assert_uint_eq(progress.written + progress.from_source, present);
    ck_assert_uint_eq(progress.zero, t.guest.pages - present);
}

/* The guest isn't held up by anything. */
static inline void assert_runs(void)
{
    unsigned long before = atomic_load(&t.guest.writes);

    await(atomic_load(&t.guest.writes) > before + 1000);
}

static inline int save_fixture_main(const char *name, void (*add_tests)(TCase *tc))
{
    const char *lacking = fake_guest_lacking();

    if (lacking) {
        puts(lacking);
        return 77;
    }
    return fixture_main(name, add_tests);
}
