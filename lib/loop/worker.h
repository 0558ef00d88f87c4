/* Threads for what may block (disks, a QEMU being asked what it can do), so that the loop never does.
 *
 * A worker with one thread runs its jobs strictly in the order they were added: the writer relies on that. A job is owned by
 * the worker from worker_add() until done() is called on the loop; from then on by done(). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/loop/loop.h"

enum { WORKER_THREADS_MAX = 4 };

struct job {
    struct job *next;
    void (*run)(struct job *job);  /* on a thread; touches nothing the loop may change meanwhile */
    void (*done)(struct job *job); /* on the loop, some time after run() has returned */
};

struct worker;

/* `threads` from 1 to WORKER_THREADS_MAX. All signals are blocked in them. -errno of pthread_create(3). */
int worker_new(struct loop *l, unsigned threads, struct worker **ret_worker);

/* After worker_stop() the job is run and done at once, on the caller's thread. */
void worker_add(struct worker *w, struct job *job);

/* Lets the threads finish what is queued, for at most `grace_ms`, then calls what done() is outstanding. False: a thread hangs
 * (a dead disk); then the worker must not be freed and the process should leave by _exit(2). */
bool worker_stop(struct worker *w, uint64_t grace_ms);

/* Only after a worker_stop() that returned true, or NULL. */
void worker_free(struct worker *w);
