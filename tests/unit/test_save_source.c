/* Guests whose RAM isn't all in the memfd, or that are stopped. */
#include <sys/mman.h>

#include "shim/memory/uffd.h"
#include "tests/unit/save_fixture.h"

/* ---- a restored guest, not all of whose pages are there ---- */

static struct {
    int fd;
    struct memory_index *index;
    uint64_t missing[WORDS];
    pthread_mutex_t lock;
} source = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* The pager in its simplest form. */
static int on_missing(void *arg, uint64_t addr, bool write)
{
    unsigned char page[FAKE_PAGE];
    uint64_t i = (addr - (uintptr_t)t.guest.ram) / FAKE_PAGE;
    int r;

    ck_assert_int_eq(pread(source.fd, page, FAKE_PAGE, (off_t)(i * FAKE_PAGE)), FAKE_PAGE);
    pthread_mutex_lock(&source.lock);
    r = uffd_copy(t.guest.uffd, addr, page, FAKE_PAGE).r;
    source.missing[i / 64] &= ~(UINT64_C(1) << i % 64);
    pthread_mutex_unlock(&source.lock);
    return r == -EEXIST ? uffd_wake(t.guest.uffd, addr, FAKE_PAGE) : r;
}

/* An image that has two pages of three; `expected` becomes its content. */
static void make_source(void)
{
    source.fd = openat(fixture.dir, "source", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert_int_eq(ftruncate(source.fd, (off_t)t.guest.len), 0);
    ck_assert_int_eq(memory_index_new(t.guest.len, &source.index), 0);
    memset(t.expected, 0, t.guest.len);
    for (uint64_t page = 0; page < t.guest.pages; page++) {
        unsigned char *at = t.expected + page * FAKE_PAGE;

        source.missing[page / 64] |= UINT64_C(1) << page % 64;
        if ((page / 7) % 3 == 0)
            continue;
        fake_pattern(at, page + 1000000);
        ck_assert_int_eq(pwrite(source.fd, at, FAKE_PAGE, (off_t)(page * FAKE_PAGE)), FAKE_PAGE);
        memory_index_set(source.index, page, memory_page_sum(at));
    }
    t.config.source_fd = source.fd;
    t.config.source_index = source.index;
    t.config.from_source = t.from_source;
}

static void copy_missing(void)
{
    pthread_mutex_lock(&source.lock);
    memcpy(t.from_source, source.missing, sizeof(t.from_source));
    pthread_mutex_unlock(&source.lock);
}

static void free_source(void)
{
    fd_close(source.fd);
    memory_index_free(source.index);
}

START_TEST(a_guest_that_is_still_being_restored)
{
    const struct fault_handler pager = { .missing = on_missing };

    set_up(PAGES);
    make_source();
    faults_set_missing(t.guest.faults, &pager);
    ck_assert_int_eq(faults_watch(t.guest.faults, UFFDIO_REGISTER_MODE_MISSING), 0);
    t.guest.rate = 20000;
    fake_guest_start(&t.guest);
    await(atomic_load(&t.guest.writes) > 300);
    begin();
    copy_missing();
    protect();
    await(atomic_load(&t.guest.writes) > 900); /* some bring pages in, which aren't protected then */
    fake_guest_stop(&t.guest);
    copy_missing();
    freeze();
    await(atomic_load(&t.guest.writes) > 1500);
    save_copy(t.save);
    assert_saved();
    ck_assert_uint_gt(save_progress(t.save).from_source, 0);
    ck_assert_uint_gt(save_progress(t.save).written, 0);
    /* It is a pager's still: what is missing comes from the image, not as zeros. */
    fake_guest_stop(&t.guest);
    copy_missing();
    for (uint64_t page = 0; page < t.guest.pages; page++) {
        bool missing = (t.from_source[page / 64] >> page % 64) & 1;

        if (missing && memcmp(t.guest.ram + page * FAKE_PAGE, t.expected + page * FAKE_PAGE, FAKE_PAGE) != 0)
            ck_abort_msg("page %ju isn't the image's", (uintmax_t)page);
    }
    tear_down();
    free_source();
}
END_TEST

/* ---- a stopped guest ---- */

START_TEST(a_stopped_guest)
{
    set_up(PAGES);
    fill(&t.guest);
    t.config.faults = NULL;
    t.config.uffd = -1;
    remember();
    begin();
    save_copy(t.save);
    assert_saved();
    ck_assert_uint_eq(save_progress(t.save).faults, 0);
    tear_down();
}
END_TEST

START_TEST(a_stopped_guest_that_is_partly_the_sources)
{
    set_up(PAGES);
    make_source();
    t.config.faults = NULL;
    memcpy(t.from_source, source.missing, sizeof(t.from_source));
    for (uint64_t page = 0; page < t.guest.pages; page += 1 + page % 40) {
        fake_pattern(t.guest.ram + page * FAKE_PAGE, page);
        t.from_source[page / 64] &= ~(UINT64_C(1) << page % 64);
    }
    /* One whose sum isn't known gets one. */
    memory_index_set(source.index, 8, 0);
    remember();
    begin();
    save_copy(t.save);
    assert_saved();
    tear_down();
    free_source();
}
END_TEST

START_TEST(a_source_that_is_cut_short)
{
    struct err err = ERR_INIT;

    set_up(PAGES);
    make_source();
    t.config.faults = NULL;
    memcpy(t.from_source, source.missing, sizeof(t.from_source));
    ck_assert_int_eq(ftruncate(source.fd, MIB + 512), 0);
    begin();
    save_copy(t.save);
    await(save_done(t.save));
    ck_assert_int_eq(save_error(t.save, &err), -EIO);
    ck_assert_ptr_nonnull(strstr(err.text, "/source"));
    tear_down();
    free_source();
}
END_TEST

START_TEST(a_stopped_guest_whose_memory_is_private)
{
    unsigned char *private;

    set_up(PAGES);
    fill(&t.guest);
    private = mmap(NULL, t.guest.len, PROT_READ | PROT_WRITE, MAP_PRIVATE, t.guest.ram_fd, 0);
    ck_assert_ptr_ne(private, MAP_FAILED);
    for (uint64_t page = 0; page < t.guest.pages; page += 3)
        fake_pattern(private + page * FAKE_PAGE, page);
    memcpy(t.expected, private, t.guest.len);
    t.config.faults = NULL;
    t.config.ram_fd = -1;
    t.config.addr = (uintptr_t) private;
    t.config.mem_fd = open("/proc/self/mem", O_RDONLY | O_CLOEXEC);
    begin();
    save_copy(t.save);
    assert_saved();
    fd_close(t.config.mem_fd);
    (void)munmap(private, t.guest.len);
    tear_down();
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, a_guest_that_is_still_being_restored);
    tcase_add_test(tc, a_stopped_guest);
    tcase_add_test(tc, a_stopped_guest_that_is_partly_the_sources);
    tcase_add_test(tc, a_source_that_is_cut_short);
    tcase_add_test(tc, a_stopped_guest_whose_memory_is_private);
}

int main(void) { return save_fixture_main("save_source", add_tests); }
