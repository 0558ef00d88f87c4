/* For tests on the loop: run it until a condition holds, with a deadline; count our descriptors. */
#pragma once

#include <check.h>
#include <dirent.h>
#include <stdbool.h>

#include "lib/loop/loop.h"

enum { LOOP_TEST_DEADLINE_S = 20 };

static inline void loop_test_expired(struct ev_loop *ev, ev_timer *w, int revents) { *(bool *)w->data = true; }

/* Runs iterations of the loop until `condition` is true. Fails the test after the deadline. */
#define run_until(loop, condition)                                           \
    do {                                                                     \
        bool expired_ = false;                                               \
        ev_timer timer_;                                                     \
        ev_now_update(loop_ev(loop));                                        \
        ev_timer_init(&timer_, loop_test_expired, LOOP_TEST_DEADLINE_S, 0.); \
        timer_.data = &expired_;                                             \
        ev_timer_start(loop_ev(loop), &timer_);                              \
        while (!(condition) && !expired_)                                    \
            ev_run(loop_ev(loop), EVRUN_ONCE);                               \
        ev_timer_stop(loop_ev(loop), &timer_);                               \
        ck_assert_msg(!expired_, "deadline passed before: %s", #condition);  \
    } while (0)

/* A few iterations that don't wait: whatever could happen at once has happened. */
static inline void run_settled(struct loop *l)
{
    for (int i = 0; i < 8; i++)
        ev_run(loop_ev(l), EVRUN_NOWAIT);
}

static inline int count_fds(void)
{
    DIR *d = opendir("/proc/self/fd");
    int n = 0;

    ck_assert_ptr_nonnull(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}
