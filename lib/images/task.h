/* What a thread that fetches or reads for long has in common with the loop: progress to look at, and the wish that it end. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/images/config.h"

/* Of the threads that work at one: curl and TLS want some. */
enum { IMAGE_THREAD_STACK = 1024 * 1024 };

/* Bytes a second for everybody together. */
struct rate_limiter {
    pthread_mutex_t mutex;
    uint64_t free_us; /* when what was taken so far is paid for */
};

struct image_task {
    const struct images_config *config; /* of the one thread that has it, and those it starts and waits for */
    struct rate_limiter *limiter;
    int cancel_fd; /* an eventfd, readable once cancelled */
    atomic_bool cancelled;
    _Atomic(const char *) phase; /* a literal */
    _Atomic uint64_t done, total;
};

int image_task_init(struct image_task *task, struct rate_limiter *limiter);
void image_task_cancel(struct image_task *task); /* from any thread */
void image_task_clear(struct image_task *task);

static inline bool image_task_is_cancelled(const struct image_task *task) { return atomic_load(&task->cancelled); }
/* -ECANCELED with its words. */
int image_task_cancelled(struct err *err);

/* Waits, unless it is cancelled: then -ECANCELED at once. */
int image_task_wait(const struct image_task *task, uint64_t ms);
/* Accounts for bytes that came in; waits as the config's rate_limit wants. -ECANCELED. */
int image_task_pace(const struct image_task *task, uint64_t bytes);
