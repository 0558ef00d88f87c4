#include <sys/mman.h>
#include <sys/resource.h>

#include "tests/unit/save_fixture.h"

START_TEST(what_is_saved_is_the_freeze)
{
    set_up(PAGES);
    fill(&t.guest);
    fake_guest_start(&t.guest);
    begin();
    ck_assert(!save_protected(t.save));
    protect();
    assert_runs(); /* so that much is dirty */
    freeze();
    assert_runs(); /* so that much is read for faults */
    ck_assert(!save_done(t.save));
    save_copy(t.save);
    assert_saved();
    ck_assert_uint_gt(save_progress(t.save).faults, 0);
    assert_runs();
    tear_down();
}
END_TEST

START_TEST(again_and_again)
{
    set_up(PAGES);
    fill(&t.guest);
    fake_guest_start(&t.guest);
    for (int i = 0; i < 8; i++) {
        begin();
        protect();
        freeze();
        save_copy(t.save);
        assert_saved();
        save_free(t.save);
        t.save = NULL;
        ck_assert_int_eq(ftruncate(t.config.out_fd, 0), 0);
        memory_index_free(t.config.index);
        ck_assert_int_eq(memory_index_new(t.guest.len, &t.config.index), 0);
    }
    tear_down();
}
END_TEST

START_TEST(a_slow_disk_stalls_the_guest)
{
    set_up(80 * MIB / FAKE_PAGE); /* more than is kept for writing */
    t.guest.whole = true;
    for (uint64_t page = 0; page < t.guest.pages; page++)
        fake_pattern(t.guest.ram + page * FAKE_PAGE, page);
    fake_guest_start(&t.guest);
    begin();
    protect();
    pthread_mutex_lock(&t.lock);
    t.disk_stands = true;
    pthread_mutex_unlock(&t.lock);
    freeze();
    save_copy(t.save);
    await(save_progress(t.save).stalls > 0);
    disk_goes_on();
    assert_saved();
    assert_runs();
    tear_down();
}
END_TEST

START_TEST(a_stalled_guest_goes_on_when_it_is_cancelled)
{
    set_up(80 * MIB / FAKE_PAGE);
    t.guest.whole = true;
    for (uint64_t page = 0; page < t.guest.pages; page++)
        t.guest.ram[page * FAKE_PAGE] = 1;
    fake_guest_start(&t.guest);
    begin();
    protect();
    pthread_mutex_lock(&t.lock);
    t.disk_stands = true;
    pthread_mutex_unlock(&t.lock);
    freeze();
    save_copy(t.save);
    await(save_progress(t.save).stalls > 0);
    save_stop(t.save);
    assert_runs(); /* while the disk still stands */
    disk_goes_on();
    await(save_done(t.save));
    ck_assert_int_eq(save_error(t.save, NULL), -ECANCELED);
    tear_down();
}
END_TEST

enum moment { AT_ONCE, PROTECTING, PROTECTED, FROZEN, COPYING, DONE, MOMENTS };

static void go_to(enum moment moment)
{
    begin();
    if (moment == PROTECTING)
        save_protect(t.save);
    if (moment >= PROTECTED)
        protect();
    if (moment >= FROZEN)
        freeze();
    if (moment >= COPYING)
        save_copy(t.save);
    if (moment == COPYING)
        await(save_progress(t.save).done > 0);
    if (moment == DONE)
        await(save_done(t.save));
}

/* fake_guest_free() proves that nothing is protected. */
START_TEST(can_be_cancelled_at_any_time)
{
    set_up(PAGES);
    fill(&t.guest);
    fake_guest_start(&t.guest);
    go_to((enum moment)_i);
    save_cancel(t.save);
    ck_assert(save_done(t.save));
    if (_i == DONE)
        ck_assert_int_eq(save_error(t.save, NULL), 0);
    else if (_i != COPYING) /* that may have been too late */
        ck_assert_int_eq(save_error(t.save, NULL), -ECANCELED);
    assert_runs();
    save_cancel(t.save);
    tear_down();
}
END_TEST

START_TEST(can_be_freed_at_any_time)
{
    set_up(PAGES);
    fill(&t.guest);
    fake_guest_start(&t.guest);
    go_to((enum moment)_i);
    save_free(t.save);
    t.save = NULL;
    assert_runs();
    tear_down();
}
END_TEST

START_TEST(a_freeze_that_comes_too_early_is_refused)
{
    set_up(PAGES);
    begin();
    ck_assert_int_eq(save_freeze(t.save), -EBUSY);
    await(save_done(t.save));
    tear_down();
}
END_TEST

/* The file may be as long as it is already, so it fails in the middle: at its second half. */
START_TEST(a_full_disk_is_told_and_the_guest_goes_on)
{
    struct rlimit limit = { PAGES / 2 * FAKE_PAGE, RLIM_INFINITY };
    struct err err = ERR_INIT;

    set_up(PAGES);
    for (uint64_t page = 0; page < t.guest.pages; page++)
        t.guest.ram[page * FAKE_PAGE] = 1;
    ck_assert_int_eq(ftruncate(t.config.out_fd, (off_t)t.guest.len), 0);
    fake_guest_start(&t.guest);
    begin();
    protect();
    freeze();
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    save_copy(t.save);
    await(save_done(t.save));
    ck_assert_int_eq(save_error(t.save, &err), -EFBIG);
    ck_assert_str_eq(err.id, "io-error");
    ck_assert_ptr_nonnull(strstr(err.text, "can't write /"));
    ck_assert_ptr_nonnull(strstr(err.text, "/memory.raw: File too large"));
    ck_assert_uint_lt(save_progress(t.save).done, t.guest.pages);
    assert_runs();
    tear_down();
}
END_TEST

START_TEST(a_file_that_takes_nothing_is_told_before_the_guest_is_stopped)
{
    struct err err = ERR_INIT;

    set_up(PAGES);
    fd_close(t.config.out_fd);
    t.config.out_fd = memfd_create("full", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    ck_assert_int_eq(fcntl(t.config.out_fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    fake_guest_start(&t.guest);
    begin();
    protect();
    ck_assert(!save_protected(t.save));
    ck_assert_int_eq(save_freeze(t.save), -EPERM);
    ck_assert_int_eq(save_error(t.save, &err), -EPERM);
    assert_runs();
    tear_down();
}
END_TEST

/* ---- pages given back ---- */

static void give_back(uint64_t page, uint64_t count)
{
    ck_assert_int_eq(madvise(t.guest.ram + page * FAKE_PAGE, count * FAKE_PAGE, MADV_REMOVE), 0);
}

START_TEST(given_back_before_the_freeze_is_zeros)
{
    set_up(PAGES);
    fill(&t.guest);
    begin();
    protect();
    give_back(100, 400);
    fake_pattern(t.guest.ram + 150 * FAKE_PAGE, 1);
    freeze();
    fake_pattern(t.guest.ram + 150 * FAKE_PAGE, 2);
    fake_pattern(t.guest.ram + 160 * FAKE_PAGE, 3);
    save_copy(t.save);
    assert_saved();
    tear_down();
}
END_TEST

static void assert_lost(void)
{
    struct err err = ERR_INIT;

    save_copy(t.save);
    await(save_done(t.save));
    ck_assert_int_eq(save_error(t.save, &err), -EBUSY);
    ck_assert_str_eq(err.id, "memory-given-back");
    tear_down();
}

START_TEST(given_back_after_it_is_a_loss)
{
    set_up(PAGES);
    fake_pattern(t.guest.ram + 150 * FAKE_PAGE, 1);
    begin();
    protect();
    freeze();
    give_back(100, 400);
    ck_assert_uint_eq(*(volatile unsigned char *)(t.guest.ram + 150 * FAKE_PAGE), 0); /* so that it is no hole any more */
    assert_lost();
}
END_TEST

START_TEST(given_back_and_not_told_yet_is_a_loss)
{
    set_up(PAGES);
    fake_pattern(t.guest.ram + 150 * FAKE_PAGE, 1);
    begin();
    protect();
    freeze();
    ck_assert_int_eq(fallocate(t.guest.ram_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 150 * FAKE_PAGE, FAKE_PAGE), 0);
    assert_lost();
}
END_TEST

START_TEST(given_back_without_anything_in_it_is_no_loss)
{
    set_up(PAGES);
    fake_pattern(t.guest.ram + 700 * FAKE_PAGE, 1);
    begin();
    protect();
    freeze();
    give_back(100, 400);
    save_copy(t.save);
    assert_saved();
    tear_down();
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, what_is_saved_is_the_freeze);
    tcase_add_test(tc, again_and_again);
    tcase_add_test(tc, a_slow_disk_stalls_the_guest);
    tcase_add_test(tc, a_stalled_guest_goes_on_when_it_is_cancelled);
    tcase_add_loop_test(tc, can_be_cancelled_at_any_time, 0, MOMENTS);
    tcase_add_loop_test(tc, can_be_freed_at_any_time, 0, MOMENTS);
    tcase_add_test(tc, a_freeze_that_comes_too_early_is_refused);
    tcase_add_test(tc, a_full_disk_is_told_and_the_guest_goes_on);
    tcase_add_test(tc, a_file_that_takes_nothing_is_told_before_the_guest_is_stopped);
    tcase_add_test(tc, given_back_before_the_freeze_is_zeros);
    tcase_add_test(tc, given_back_after_it_is_a_loss);
    tcase_add_test(tc, given_back_and_not_told_yet_is_a_loss);
    tcase_add_test(tc, given_back_without_anything_in_it_is_no_loss);
}

int main(void) { return save_fixture_main("save", add_tests); }
