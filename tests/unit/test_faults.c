/* The thread that reads events, with handlers of the tests' own. */
#include "shim/memory/faults.h"

#include <pthread.h>
#include <sys/mman.h>

#include "lib/base/clock.h"
#include "shim/memory/uffd.h"
#include "tests/unit/fixture.h"
#include "tests/unit/guest_memory.h"

enum { PAGES = 256 };
#define MISSING UFFDIO_REGISTER_MODE_MISSING
#define WP UFFDIO_REGISTER_MODE_WP

static struct guest guest;
static struct faults *faults;
static atomic_int n_missing, n_protected, n_removed, n_failed, n_later, failure, refuse;
static atomic_ulong removed_from, removed_to;

static int missing(void *arg, uint64_t addr, bool write)
{
    atomic_fetch_add(&n_missing, 1);
    if (atomic_load(&refuse) > 0) {
        atomic_fetch_sub(&refuse, 1);
        return -EAGAIN;
    }
    if (atomic_load(&refuse) < 0)
        return -EIO;
    return uffd_zero(guest.uffd, addr, UFFD_PAGE).r;
}

static int protected(void *arg, uint64_t addr)
{
    atomic_fetch_add(&n_protected, 1);
    return uffd_protect(guest.uffd, addr, UFFD_PAGE, false);
}

static void removed(void *arg, uint64_t start, uint64_t end)
{
    atomic_store(&removed_from, start);
    atomic_store(&removed_to, end);
    atomic_fetch_add(&n_removed, 1);
}

/* Three pieces after each batch. */
static bool later(void *arg) { return atomic_fetch_add(&n_later, 1) % 3 < 2; }

static void failed(void *arg, int error, uint64_t addr)
{
    atomic_store(&failure, error);
    atomic_fetch_add(&n_failed, 1);
}

static const struct fault_handler handler = { .missing = missing, .removed = removed, .later = later, .failed = failed };
static const struct fault_handler writes = { .protected = protected, .failed = failed };

static void make(struct uffd_msg *batch)
{
    struct faults_config c = {
        .uffd = guest.uffd, .addr = guest_addr(&guest), .len = guest.size, .features = guest.features, .pid = getpid(), .batch = batch
    };

    ck_assert_int_eq(faults_new(&c, &faults), 0);
    faults_set_missing(faults, &handler);
}

static void setup(void)
{
    guest_make(&guest, PAGES, 100);
    guest_map(&guest);
}

static void teardown(void)
{
    faults_free(faults);
    faults = NULL;
    guest_done(&guest);
}

static void await(atomic_int *what, int least)
{
    uint64_t until = clock_mono_us() + FIXTURE_DEADLINE_MS * 1000;

    while (atomic_load(what) < least) {
        ck_assert_msg(clock_mono_us() < until, "it never came to that");
        (void)poll(NULL, 0, 1);
    }
}

static uint64_t read_page(uint64_t page) { return ((volatile uint64_t *)guest.map)[page * 512]; }

/* Ended and begun again as often as you like; sleeps in between, and each time the range is quite free or quite watched. */
START_TEST(watch_and_let_go)
{
    make(NULL);
    for (int round = 0; round < 3; round++) {
        int before = atomic_load(&n_missing);

        ck_assert_int_eq(faults_watch(faults, MISSING), 0);
        ck_assert(faults_running(faults));
        ck_assert_uint_eq(faults_modes(faults), MISSING);
        ck_assert_uint_eq(read_page((uint64_t)round), 0);
        ck_assert_int_eq(atomic_load(&n_missing), before + 1);
        ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
        ck_assert(!faults_running(faults));
        ck_assert_uint_eq(read_page(100 + (uint64_t)round), 0);
        ck_assert_int_eq(atomic_load(&n_missing), before + 1);
    }
    ck_assert_int_eq(faults_unwatch(faults, MISSING | WP), 0);
    ck_assert_int_ge(atomic_load(&n_later), 3);
}
END_TEST

/* Idle means idle, also the second time. */
START_TEST(sleeps_when_idle)
{
    struct timespec before, after;

    make(NULL);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    (void)read_page(1);
    await(&n_later, 3);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    (void)poll(NULL, 0, 90);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    ck_assert_int_lt((after.tv_sec - before.tv_sec) * 1000000000 + after.tv_nsec - before.tv_nsec, 40 * 1000 * 1000);
}
END_TEST

START_TEST(two_watch)
{
    make(NULL);
    faults_set_protected(faults, &writes);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    (void)read_page(3);
    ck_assert_int_eq(faults_watch(faults, WP), 0);
    ck_assert_uint_eq(faults_modes(faults), MISSING | WP);
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    guest.map[3 * 512] = 1;
    ck_assert_int_eq(atomic_load(&n_protected), 1);
    ck_assert_int_eq(faults_unwatch(faults, MISSING), -EBUSY);
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    ck_assert_int_eq(faults_unwatch(faults, WP), 0);
    guest.map[3 * 512] = 2;
    ck_assert_int_eq(atomic_load(&n_protected), 1);
    ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
    /* And alone. */
    ck_assert_int_eq(faults_watch(faults, WP), 0);
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    guest.map[3 * 512] = 3;
    ck_assert_int_eq(atomic_load(&n_protected), 2);
    ck_assert_int_eq(faults_unwatch(faults, WP), 0);
    ck_assert_uint_eq(guest.map[3 * 512], 3);
}
END_TEST

/* What a predecessor left protected is nobody's. */
START_TEST(protection_left_behind)
{
    make(NULL);
    guest.map[7 * 512] = 1;
    ck_assert_int_eq(uffd_register(guest.uffd, guest_addr(&guest), guest.size, MISSING | WP), 0);
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    guest.map[7 * 512] = 2;
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    guest.map[7 * 512] = 3;
    ck_assert_uint_eq(guest.map[7 * 512], 3);
}
END_TEST

START_TEST(parked)
{
    make(NULL);
    atomic_store(&refuse, 5);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    ck_assert_uint_eq(read_page(9), 0);
    ck_assert_int_eq(atomic_load(&n_missing), 6);
    ck_assert_uint_eq(atomic_load(&faults_counters(faults)->parked), 1);
    ck_assert_uint_eq(atomic_load(&faults_counters(faults)->missing), 1);
    ck_assert_int_eq(atomic_load(&n_failed), 0);
}
END_TEST

static void *touch(void *arg)
{
    (void)read_page((uint64_t)(uintptr_t)arg);
    return NULL;
}

static void fails_with(int refusals, int error)
{
    pthread_t thread;

    make(NULL);
    atomic_store(&refuse, refusals);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, touch, (void *)11), 0);
    await(&n_failed, 1);
    ck_assert_int_eq(atomic_load(&failure), error);
    ck_assert_int_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}

START_TEST(failed_at_once) { fails_with(-1, -EIO); }
END_TEST
START_TEST(failed_for_good) { fails_with(INT32_MAX, -EAGAIN); }
END_TEST

/* A removal that a predecessor had read is told before anybody installs anything, and faults it had read are served. */
START_TEST(batch_of_a_predecessor)
{
    static struct uffd_msg batch[FAULTS_BATCH];

    batch[0].event = UFFD_EVENT_PAGEFAULT;
    batch[0].arg.pagefault.address = guest_addr(&guest) + 5 * UFFD_PAGE + 8;
    batch[1].event = UFFD_EVENT_REMOVE;
    batch[1].arg.remove.start = guest_addr(&guest) + 20 * UFFD_PAGE;
    batch[1].arg.remove.end = guest_addr(&guest) + 30 * UFFD_PAGE;
    make(batch);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    ck_assert_int_eq(atomic_load(&n_removed), 1);
    ck_assert_uint_eq(atomic_load(&removed_from), guest_addr(&guest) + 20 * UFFD_PAGE);
    ck_assert_uint_eq(atomic_load(&removed_to), guest_addr(&guest) + 30 * UFFD_PAGE);
    await(&n_missing, 1);
    ck_assert_uint_eq(read_page(5), 0);
    ck_assert_int_eq(atomic_load(&n_missing), 1);
    ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
    for (size_t i = 0; i < FAULTS_BATCH; i++)
        ck_assert_int_eq(batch[i].event, 0);
}
END_TEST

static atomic_bool enough;

static void *balloon(void *arg)
{
    while (!atomic_load(&enough))
        ck_assert_int_eq(madvise(guest.map + 64 * 512, 64 * UFFD_PAGE, MADV_REMOVE), 0);
    return NULL;
}

/* Whoever gives back pages just when the range is let go of isn't left asleep. */
START_TEST(let_go_under_a_balloon)
{
    pthread_t thread;

    make(NULL);
    ck_assert_int_eq(pthread_create(&thread, NULL, balloon, NULL), 0);
    for (int round = 0; round < 200; round++) {
        ck_assert_int_eq(faults_watch(faults, MISSING), 0);
        (void)read_page(64 + (uint64_t)round % 64);
        ck_assert_int_eq(faults_unwatch(faults, MISSING), 0);
    }
    atomic_store(&enough, true);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
}
END_TEST

static void *change(void *arg)
{
    for (int i = 0; i < 200; i++)
        faults_set_protected(faults, i % 2 ? &writes : NULL);
    return NULL;
}

/* Whoever changes a handler gets his turn among faults without end. */
START_TEST(handlers_change_under_load)
{
    pthread_t thread;

    make(NULL);
    ck_assert_int_eq(faults_watch(faults, MISSING), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, change, NULL), 0);
    while (pthread_tryjoin_np(thread, NULL) == EBUSY) {
        for (uint64_t i = 0; i < PAGES; i++)
            (void)read_page(i);
        ck_assert_int_eq(madvise(guest.map, guest.size, MADV_REMOVE), 0);
    }
}
END_TEST

static void *write_word(void *arg)
{
    ((volatile uint64_t *)guest.map)[512] = 2;
    return NULL;
}

/* Dead in the middle of a snapshot: the fault was read, and nobody knows of it any more. Whoever lets go lets the guest write. */
START_TEST(write_that_a_predecessor_read)
{
    struct pollfd pollfd = { .fd = guest.uffd, .events = POLLIN };
    struct uffd_msg message;
    pthread_t thread;

    ((volatile uint64_t *)guest.map)[512] = 1;
    ck_assert_int_eq(uffd_register(guest.uffd, guest_addr(&guest), guest.size, WP), 0);
    ck_assert_int_eq(uffd_protect(guest.uffd, guest_addr(&guest), guest.size, true), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, write_word, NULL), 0);
    ck_assert_int_eq(poll(&pollfd, 1, FIXTURE_DEADLINE_MS), 1);
    ck_assert_int_eq(read(guest.uffd, &message, sizeof(message)), sizeof(message));
    make(NULL);
    ck_assert_int_eq(faults_unwatch(faults, MISSING | WP), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(((volatile uint64_t *)guest.map)[512], 2);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_add_test(tc, watch_and_let_go);
    tcase_add_test(tc, sleeps_when_idle);
    tcase_add_test(tc, two_watch);
    tcase_add_test(tc, protection_left_behind);
    tcase_add_test(tc, parked);
    tcase_add_test(tc, failed_at_once);
    tcase_add_test(tc, failed_for_good);
    tcase_add_test(tc, batch_of_a_predecessor);
    tcase_add_test(tc, write_that_a_predecessor_read);
    tcase_add_test(tc, let_go_under_a_balloon);
    tcase_add_test(tc, handlers_change_under_load);
}

int main(void)
{
    guest_need_userfaultfd();
    return fixture_main("faults", add_tests);
}
