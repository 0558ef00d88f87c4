/* The pager while the guest gives pages back, and while a snapshot watches what it writes. */
#include "tests/unit/pager_fixture.h"

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

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, given_back);
    tcase_add_test(tc, given_back_meanwhile);
    tcase_add_test(tc, missing);
    tcase_add_test(tc, watched_for_writes);
}

int main(void)
{
    guest_need_userfaultfd();
    return fixture_main("pager_changes", add_tests);
}
