#include "lib/loop/worker.h"

#include <pthread.h>

#include "tests/unit/fixture.h"

struct counting {
    struct job job;
    pthread_t ran_on;
    int number;
};

static struct loop *loop;
static int finished[64], n_finished, expected;

static void run(struct job *job) { container_of(job, struct counting, job)->ran_on = pthread_self(); }

static void done(struct job *job)
{
    struct counting *c = container_of(job, struct counting, job);

    finished[n_finished++] = c->number;
    if (n_finished == expected)
        loop_stop(loop, 0);
}

static void add(struct worker *w, struct counting *c, int number)
{
    c->job.run = run;
    c->job.done = done;
    c->number = number;
    worker_add(w, &c->job);
}

START_TEST(in_order_and_on_the_loop)
{
    struct counting jobs[64];
    struct worker *w = NULL;

    ck_assert_int_eq(loop_new(&loop), 0);
    ck_assert_int_eq(worker_new(loop, 1, &w), 0);
    expected = 64;
    for (int i = 0; i < 64; i++)
        add(w, &jobs[i], i);
    ck_assert_int_eq(loop_run(loop), 0);
    for (int i = 0; i < 64; i++) {
        ck_assert_int_eq(finished[i], i);
        ck_assert(!pthread_equal(jobs[i].ran_on, pthread_self()));
    }
    ck_assert(worker_stop(w, UINT64_MAX));
    worker_free(w);
    loop_free(loop);
}
END_TEST

/* What was queued is finished, and what comes later is done at once. */
START_TEST(stop_finishes)
{
    struct counting jobs[8];
    struct worker *w = NULL;

    ck_assert_int_eq(loop_new(&loop), 0);
    ck_assert_int_eq(worker_new(loop, 3, &w), 0);
    expected = 100;
    for (int i = 0; i < 7; i++)
        add(w, &jobs[i], i);
    ck_assert(worker_stop(w, UINT64_MAX));
    ck_assert_int_eq(n_finished, 7);
    add(w, &jobs[7], 7);
    ck_assert_int_eq(n_finished, 8);
    ck_assert(pthread_equal(jobs[7].ran_on, pthread_self()));
    worker_free(w);
    loop_free(loop);
}
END_TEST

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void hang(struct job *job)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
}

static void freed(struct job *job) {}

START_TEST(a_hung_thread_is_reported)
{
    struct job job = { .run = hang, .done = freed };
    struct worker *w = NULL;

    ck_assert_int_eq(loop_new(&loop), 0);
    ck_assert_int_eq(worker_new(loop, 1, &w), 0);
    pthread_mutex_lock(&gate);
    worker_add(w, &job);
    ck_assert(!worker_stop(w, 10));
    pthread_mutex_unlock(&gate);
    ck_assert(worker_stop(w, UINT64_MAX));
    worker_free(w);
    loop_free(loop);
}
END_TEST

START_TEST(bad_numbers)
{
    struct worker *w = NULL;

    ck_assert_int_eq(loop_new(&loop), 0);
    ck_assert_int_eq(worker_new(loop, 0, &w), -EINVAL);
    ck_assert_int_eq(worker_new(loop, WORKER_THREADS_MAX + 1, &w), -EINVAL);
    ck_assert_ptr_null(w);
    worker_free(NULL);
    loop_free(loop);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, in_order_and_on_the_loop);
    tcase_add_test(tc, stop_finishes);
    tcase_add_test(tc, a_hung_thread_is_reported);
    tcase_add_test(tc, bad_numbers);
}

int main(void) { return fixture_main("worker", add_tests); }
