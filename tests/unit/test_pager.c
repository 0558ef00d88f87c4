/* The pager with a guest in the same process: every word of it, however its pages came. */
#include "shim/memory/pager.h"

#include <pthread.h>
#include <sys/mman.h>

#include "lib/base/clock.h"
#include "shim/memory/uffd.h"
#include "tests/unit/fixture.h"
#include "tests/unit/guest_memory.h"

enum { PAGES = 2048, ABSENT = 25 };

static struct guest guest;
static struct pager *pager;

static void setup(void)
{
    guest_make(&guest, PAGES, ABSENT);
    guest_map(&guest);
}

static void teardown(void)
{
    pager_free(pager);
    pager = NULL;
    guest_done(&guest);
}

static struct pager_config config(void)
{
    return (struct pager_config){ .ram_fd = guest.ram, .source_fd = guest.source, .state_fd = guest.state, .index = guest.index };
}

static void make(const struct pager_config *c)
{
    struct err err = ERR_INIT;

    ck_assert_msg(pager_new(c, &pager, &err) == 0, "%s", err.text);
}

static int attach(void) { return pager_attach(pager, guest.uffd, guest.features, guest_addr(&guest), getpid()); }

static void await(bool (*what)(const struct pager *))
{
    uint64_t until = clock_mono_us() + FIXTURE_DEADLINE_MS * 1000;
    struct err err = ERR_INIT;

    while (!what(pager)) {
        ck_assert_msg(pager_error(pager, &err) == 0, "%s", err.text);
        ck_assert_msg(clock_mono_us() < until, "it never came to that");
        (void)poll(NULL, 0, 1);
    }
}

static struct pager_stats stats(void)
{
    struct pager_stats s;

    pager_stats(pager, &s);
    return s;
}

static void *verify(void *arg)
{
    uint64_t from = (uint64_t)(uintptr_t)arg;

    for (uint64_t i = 0; i < PAGES; i++)
        if (!guest_page_is_right(&guest, guest_nth(&guest, (i + from) % PAGES)))
            return &guest;
    return NULL;
}

static void verify_by(unsigned threads)
{
    pthread_t vcpu[4];
    void *wrong;

    for (unsigned i = 0; i < threads; i++)
        ck_assert_int_eq(pthread_create(&vcpu[i], NULL, verify, (void *)(uintptr_t)(i * PAGES / threads)), 0);
    for (unsigned i = 0; i < threads; i++) {
        ck_assert_int_eq(pthread_join(vcpu[i], &wrong), 0);
        ck_assert_ptr_null(wrong);
    }
}

static bool is_registered(void)
{
    char line[256];
    bool in = false, found = false;
    FILE *f = fopen("/proc/self/smaps", "re");

    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof(line), f)) {
        if (strstr(line, "memfd:ram"))
            in = true;
        else if (in && has_prefix(line, "VmFlags:")) {
            found = found || strstr(line, " um") || strstr(line, " uw");
            in = false;
        }
    }
    (void)fclose(f);
    return found;
}

START_TEST(lazy)
{
    struct pager_config c = config();

    make(&c);
    await(pager_loaded);
    ck_assert_int_eq(attach(), 0);
    verify_by(3);
    await(pager_complete); /* all was touched: that is all of it */
    ck_assert(!is_registered());
    ck_assert_uint_eq(stats().settled, stats().present);
    ck_assert_uint_gt(stats().faults, 0);
    ck_assert_uint_gt(stats().neighbours, stats().faults);
    ck_assert_uint_gt(stats().zero, 0);
    ck_assert_uint_gt(stats().first_fault_us, 0);
    verify_by(1);
}
END_TEST

/* What is there before the guest runs costs no fault, and what of it was never looked at is told. */
START_TEST(known)
{
    struct page_run runs[] = { { 1500, 200 }, { 0, 512 }, { 100, 20 } };
    struct working_set set = { .ram_size = guest.size, .runs = runs, .n_runs = ARRAY_LEN(runs) };
    struct pager_config c = config();

    c.known = &set;
    make(&c);
    await(pager_loaded);
    ck_assert_uint_eq(stats().known, 712);
    ck_assert_int_eq(attach(), 0);
    ck_assert_uint_eq(stats().useless, 712);
    for (uint64_t i = 0; i < 512; i++)
        ck_assert(guest_page_is_right(&guest, i));
    ck_assert_uint_eq(stats().faults, 0);
    ck_assert_uint_le(stats().useless, 200);
    verify_by(2);
    await(pager_complete);
    ck_assert_uint_eq(stats().useless, 0);
}
END_TEST

/* The agent says hello while the working set is still being written. */
START_TEST(known_cut_short)
{
    struct page_run runs[] = { { 0, PAGES } };
    struct working_set set = { .ram_size = guest.size, .runs = runs, .n_runs = 1 };
    struct pager_config c = config();

    c.known = &set;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    verify_by(2);
    await(pager_complete);
    ck_assert(!is_registered());
}
END_TEST

START_TEST(everything)
{
    struct pager_config c = config();
    int r;

    c.everything = true;
    make(&c);
    r = attach();
    ck_assert(r == 0 || r == -EBUSY);
    await(pager_loaded);
    if (r == -EBUSY)
        ck_assert_int_eq(attach(), 0);
    ck_assert(pager_complete(pager) && pager_settled(pager));
    ck_assert_int_eq(attach(), -EALREADY);
    ck_assert(!is_registered());
    verify_by(2);
    ck_assert_uint_eq(stats().faults, 0);
}
END_TEST

static void count(void *arg) { atomic_fetch_add((atomic_int *)arg, 1); }

START_TEST(background)
{
    static atomic_int told;
    struct pager_config c = config();

    c.prefetch = true;
    c.notify = count;
    c.arg = &told;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    ck_assert(guest_page_is_right(&guest, 77));
    pager_settle(pager);
    await(pager_settled);
    await(pager_complete);
    ck_assert(!is_registered());
    ck_assert_uint_gt(stats().background, PAGES / 2);
    ck_assert_uint_ge((unsigned)atomic_load(&told), 2);
    verify_by(2);
    ck_assert_int_eq(madvise(guest.map, guest.size, MADV_REMOVE), 0); /* nobody is needed for it any more */
    ck_assert(guest_page_is_zero(&guest, 77));
}
END_TEST

/* Settles by itself: nothing happens any more after the first activity. */
START_TEST(settles)
{
    struct pager_config c = config();

    make(&c);
    ck_assert_int_eq(attach(), 0);
    ck_assert(guest_page_is_right(&guest, 77));
    await(pager_settled);
    ck_assert_uint_ge(stats().settled_us, 500 * 1000);
    ck_assert(!stats().gave_up && !pager_complete(pager));
}
END_TEST

static void give_back(uint64_t page, uint64_t count)
{
    ck_assert_int_eq(madvise(guest.map + page * 512, count * IMAGE_PAGE, MADV_REMOVE), 0);
}

START_TEST(given_back)
{
    struct page_run runs[] = { { 800, 100 } };
    struct working_set set = { .ram_size = guest.size, .runs = runs, .n_runs = 1 };
    struct pager_config c = config();
    bool gone[PAGES] = { false };
    static const uint64_t spans[][2] = { { 0, 100 }, { 163, 1 }, { 850, 20 }, { 1000, 300 } };

    c.known = &set;
    c.prefetch = true;
    make(&c);
    await(pager_loaded);
    ck_assert_int_eq(attach(), 0);
    for (uint64_t i = 30; i < 60; i++)
        ck_assert(guest_page_is_right(&guest, i));
    for (size_t s = 0; s < ARRAY_LEN(spans); s++) {
        give_back(spans[s][0], spans[s][1]);
        memset(gone + spans[s][0], true, spans[s][1]);
    }
    for (uint64_t i = 0; i < PAGES; i += 3) {
        ck_assert(gone[i] ? guest_page_is_zero(&guest, i) : guest_page_is_right(&guest, i));
        guest.map[i * 512] = i;
    }
    pager_settle(pager);
    await(pager_complete);
    for (uint64_t i = 0; i < PAGES; i++) {
        if (i % 3 == 0) {
            ck_assert_uint_eq(guest.map[i * 512], i);
            guest.map[i * 512] = gone[i] ? 0 : guest_word(&guest, i, 0);
        }
        ck_assert(gone[i] ? guest_page_is_zero(&guest, i) : guest_page_is_right(&guest, i));
    }
    ck_assert_uint_eq(stats().removed, ARRAY_LEN(spans));
}
END_TEST

static void *balloon(void *arg)
{
    for (unsigned round = 0; round < 30; round++)
        for (uint64_t page = 0; page < PAGES; page += 64)
            if (madvise(guest.map + page * 512, 8 * IMAGE_PAGE, MADV_REMOVE) < 0)
                return &guest;
    return NULL;
}

/* A page is given back over and over, while all the others come in and the pager lets go of the range. */
START_TEST(given_back_meanwhile)
{
    struct pager_config c = config();
    pthread_t thread;
    void *wrong;

    c.prefetch = true;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, balloon, NULL), 0);
    for (uint64_t i = 0; i < PAGES; i++)
        if (i % 64 >= 8)
            ck_assert(guest_page_is_right(&guest, i));
    pager_settle(pager);
    ck_assert_int_eq(pthread_join(thread, &wrong), 0);
    ck_assert_ptr_null(wrong);
    await(pager_complete);
    for (uint64_t i = 0; i < PAGES; i++)
        ck_assert(i % 64 < 8 ? guest_page_is_zero(&guest, i) : guest_page_is_right(&guest, i));
}
END_TEST

/* The second time the guest does the same, nearly all of it is there. */
START_TEST(learned)
{
    struct pager_config c = config();
    auto_working_set struct working_set set = { 0 };
    uint64_t first;

    c.record = true;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    for (uint64_t i = 0; i < PAGES; i += 50)
        ck_assert(guest_page_is_right(&guest, i));
    pager_settle(pager);
    await(pager_settled);
    ck_assert_int_eq(pager_working_set(pager, &set), 0);
    ck_assert_uint_eq(set.ram_size, guest.size);
    ck_assert(set.runs[0].page <= 50);
    first = stats().faults;
    ck_assert_uint_gt(first, 20);
    teardown();
    setup();
    c = config();
    c.known = &set;
    make(&c);
    await(pager_loaded);
    ck_assert_int_eq(attach(), 0);
    for (uint64_t i = 0; i < PAGES; i += 50)
        ck_assert(guest_page_is_right(&guest, i));
    ck_assert_uint_le(stats().faults, first / 10);
}
END_TEST

START_TEST(missing)
{
    struct pager_config c = config();
    auto_free uint64_t *bitmap = NULL;
    size_t words = 0;

    make(&c);
    ck_assert_int_eq(pager_missing(pager, &bitmap, &words), -ENOTCONN);
    ck_assert_int_eq(attach(), 0);
    ck_assert(guest_page_is_right(&guest, 1111));
    give_back(5, 2);
    ck_assert_int_eq(pager_missing(pager, &bitmap, &words), 0);
    ck_assert_uint_eq(words, PAGES / 64);
    ck_assert(!(bitmap[1111 / 64] >> (1111 % 64) & 1));
    ck_assert(!(bitmap[0] >> 5 & 1) && !(bitmap[0] >> 6 & 1));
    for (uint64_t i = 0; i < PAGES; i++) {
        if (!memory_index_has(guest.index, i))
            ck_assert(!(bitmap[i / 64] >> (i % 64) & 1));
        else if (i < 1000 && i != 5 && i != 6)
            ck_assert(bitmap[i / 64] >> (i % 64) & 1);
    }
    verify(NULL);
    await(pager_complete);
    free(steal_ptr(&bitmap));
    ck_assert_int_eq(pager_missing(pager, &bitmap, &words), 0);
    for (size_t i = 0; i < words; i++)
        ck_assert_uint_eq(bitmap[i], 0);
}
END_TEST

static atomic_int writes;

static int lift_page(void *arg, uint64_t addr)
{
    atomic_fetch_add(&writes, 1);
    return uffd_protect(guest.uffd, addr, IMAGE_PAGE, false);
}

static void flip(uint64_t page)
{
    volatile uint64_t *word = guest.map + page * 512;

    *word = *word ^ 1;
}

/* While a snapshot watches for writes, pages come protected, zeros too, and the range is kept until it is done. */
START_TEST(watched_for_writes)
{
    struct fault_handler h = { .protected = lift_page };
    struct pager_config c = config();
    uint64_t absent = 0, n;

    c.prefetch = true;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    ck_assert(memory_index_run(guest.index, 0, false, &absent, &n));
    faults_set_protected(pager_faults(pager), &h);
    ck_assert_int_eq(faults_watch(pager_faults(pager), UFFDIO_REGISTER_MODE_WP), 0);
    ck_assert(guest_page_is_right(&guest, 100) && guest_page_is_right(&guest, absent));
    flip(100);
    flip(absent);
    ck_assert_int_eq(atomic_load(&writes), 2);
    flip(100);
    flip(absent);
    ck_assert_int_eq(atomic_load(&writes), 2);
    pager_settle(pager);
    while (stats().settled < stats().present)
        (void)poll(NULL, 0, 1);
    ck_assert(!pager_complete(pager));
    flip(PAGES - 1);
    ck_assert_int_eq(atomic_load(&writes), 3);
    ck_assert_int_eq(faults_unwatch(pager_faults(pager), UFFDIO_REGISTER_MODE_WP), 0);
    faults_set_protected(pager_faults(pager), NULL);
    await(pager_complete);
    ck_assert(!is_registered());
    flip(PAGES - 1);
    verify_by(1);
    ck_assert_int_eq(atomic_load(&writes), 3);
}
END_TEST

static bool has_failed(const struct pager *p) { return pager_error((struct pager *)(uintptr_t)p, NULL) < 0; }

static void *touch(void *arg)
{
    (void)guest_page_is_right(&guest, PAGES - 1 - (uint64_t)(uintptr_t)arg);
    return NULL;
}

/* What can't be read is never taken for zeros: the guest waits. */
START_TEST(source_lost)
{
    struct pager_config c = config();
    struct err err = ERR_INIT;
    uint64_t until = clock_mono_us() + FIXTURE_DEADLINE_MS * 1000, last = PAGES - 1;
    pthread_t thread;

    while (!memory_index_has(guest.index, last))
        last--;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    ck_assert_int_eq(ftruncate(guest.source, (off_t)(last * IMAGE_PAGE)), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, touch, (void *)(uintptr_t)(PAGES - 1 - last)), 0);
    while (!has_failed(pager) && clock_mono_us() < until)
        (void)poll(NULL, 0, 1);
    ck_assert_int_eq(pager_error(pager, &err), -ENODATA);
    ck_assert_ptr_nonnull(strstr(err.text, "can't read the snapshot's memory"));
    pager_free(pager);
    pager = NULL;
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    /* So that the thread ends: nobody is in charge of the page any more. */
    ck_assert_int_eq(uffd_unregister(guest.uffd, guest_addr(&guest), guest.size), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

START_TEST(refused)
{
    struct pager_config c = config();
    struct page_run beyond = { PAGES - 1, 2 };
    struct working_set set = { .ram_size = guest.size, .runs = &beyond, .n_runs = 1 };
    struct err err = ERR_INIT;
    int other = pager_state_new(2 * guest.size);

    c.state_fd = other;
    ck_assert_int_eq(pager_new(&c, &pager, &err), -EINVAL);
    ck_assert_str_eq(err.id, "bad-pager-state");
    c = config();
    c.state_fd = guest.source;
    ck_assert_int_lt(pager_new(&c, &pager, NULL), 0);
    c = config();
    c.ram_fd = other;
    ck_assert_int_eq(pager_new(&c, &pager, &err), -EINVAL);
    c = config();
    c.source_fd = other;
    err = ERR_INIT;
    ck_assert_int_eq(pager_new(&c, &pager, &err), -EINVAL);
    ck_assert_str_eq(err.id, "bad-image");
    c = config();
    c.known = &set;
    ck_assert_int_eq(pager_new(&c, &pager, NULL), -EINVAL);
    ck_assert_int_eq(pager_state_new(4097), -EINVAL);
    ck_assert_ptr_null(pager);
    fd_close(other);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, lazy);
    tcase_add_test(tc, known);
    tcase_add_test(tc, known_cut_short);
    tcase_add_test(tc, everything);
    tcase_add_test(tc, background);
    tcase_add_test(tc, settles);
    tcase_add_test(tc, given_back);
    tcase_add_test(tc, given_back_meanwhile);
    tcase_add_test(tc, learned);
    tcase_add_test(tc, missing);
    tcase_add_test(tc, watched_for_writes);
    tcase_add_test(tc, source_lost);
    tcase_add_test(tc, refused);
}

int main(void)
{
    guest_need_userfaultfd();
    return fixture_main("pager", add_tests);
}
