/* The pager with a guest in the same process: every word of it, however its pages came. */
#include "tests/unit/pager_fixture.h"

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

/* The image on disk and not in the page cache: neighbours come when the loader has read them. */
START_TEST(cold)
{
    struct pager_config c = config();
    auto_free char *image = malloc(guest.size);

    ck_assert_int_eq(pread(guest.source, image, guest.size, 0), (ssize_t)guest.size);
    fd_close(guest.source);
    guest.source = openat(fixture.dir, "image", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(fd_write_all(guest.source, image, guest.size), 0);
    ck_assert_int_eq(fsync(guest.source), 0);
    ck_assert_int_eq(posix_fadvise(guest.source, 0, 0, POSIX_FADV_DONTNEED), 0);
    c.source_fd = guest.source;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    verify_by(2);
    await(pager_complete);
}
END_TEST

/* What one UFFDIO_COPY can't span. */
START_TEST(several_mappings)
{
    struct pager_config c = config();

    for (uint64_t i = 10; i < PAGES; i += 77)
        ck_assert_int_eq(madvise(guest.map + i * 512, 3 * IMAGE_PAGE, MADV_DONTFORK), 0);
    c.prefetch = true;
    make(&c);
    ck_assert_int_eq(attach(), 0);
    for (uint64_t i = 0; i < PAGES; i += 5)
        ck_assert(guest_page_is_right(&guest, i));
    pager_settle(pager);
    await(pager_complete);
    ck_assert(!is_registered());
    verify_by(1);
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

static void *nothing(void *arg) { return arg; }

static size_t count_threads(void)
{
    DIR *dir = opendir("/proc/self/task");
    size_t n = 0;

    ck_assert_ptr_nonnull(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* A sanitizer may begin one of its own with the first. */
static size_t count_after_first(void)
{
    pthread_t first;

    ck_assert_int_eq(pthread_create(&first, NULL, nothing, NULL), 0);
    ck_assert_int_eq(pthread_join(first, NULL), 0);
    return count_threads();
}

static void count(void *arg) { atomic_fetch_add((atomic_int *)arg, 1); }

START_TEST(background)
{
    static atomic_int told;
    struct pager_config c = config();
    size_t threads = count_after_first();
    uint64_t until = clock_mono_us() + FIXTURE_DEADLINE_MS * 1000;

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
    while (count_threads() > threads && clock_mono_us() < until)
        (void)poll(NULL, 0, 1);
    ck_assert_uint_eq(count_threads(), threads);
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
    tcase_add_test(tc, cold);
    tcase_add_test(tc, several_mappings);
    tcase_add_test(tc, everything);
    tcase_add_test(tc, background);
    tcase_add_test(tc, settles);
    tcase_add_test(tc, learned);
    tcase_add_test(tc, source_lost);
    tcase_add_test(tc, refused);
}

int main(void)
{
    guest_need_userfaultfd();
    return fixture_main("pager", add_tests);
}
