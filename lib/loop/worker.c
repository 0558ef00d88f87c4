#include "lib/loop/worker.h"

#include <errno.h>
#include <pthread.h>

#include "lib/base/thread.h"

enum { WORKER_STACK = 256 * 1024 };

struct job_queue {
    struct job *first, **end;
};

struct worker {
    struct loop *loop;
    ev_async wake;
    pthread_mutex_t mutex;
    pthread_cond_t more;
    struct job_queue todo, finished; /* under mutex */
    bool stopping;                   /* under mutex */
    unsigned n_threads;              /* of the loop alone */
    pthread_t threads[WORKER_THREADS_MAX];
};

static void queue_init(struct job_queue *q)
{
    q->first = NULL;
    q->end = &q->first;
}

static void queue_add(struct job_queue *q, struct job *job)
{
    job->next = NULL;
    *q->end = job;
    q->end = &job->next;
}

static struct job *queue_take(struct job_queue *q)
{
    struct job *job = q->first;

    if (job) {
        q->first = job->next;
        if (!q->first)
            q->end = &q->first;
    }
    return job;
}

static void *worker_main(void *arg)
{
    struct worker *w = arg;

    pthread_mutex_lock(&w->mutex);
    for (;;) {
        struct job *job = queue_take(&w->todo);

        if (!job) {
            if (w->stopping)
                break;
            pthread_cond_wait(&w->more, &w->mutex);
            continue;
        }
        pthread_mutex_unlock(&w->mutex);
        job->run(job);
        pthread_mutex_lock(&w->mutex);
        queue_add(&w->finished, job);
        ev_async_send(loop_ev(w->loop), &w->wake);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static void finish(struct worker *w)
{
    for (;;) {
        struct job *job;

        pthread_mutex_lock(&w->mutex);
        job = queue_take(&w->finished);
        pthread_mutex_unlock(&w->mutex);
        if (!job)
            return;
        job->done(job);
    }
}

static void woken(struct ev_loop *ev, ev_async *watcher, int events) { finish(container_of(watcher, struct worker, wake)); }

static int start_threads(struct worker *w, unsigned threads)
{
    int r = 0;

    while (w->n_threads < threads && r == 0) {
        r = thread_start(WORKER_STACK, worker_main, w, &w->threads[w->n_threads]);
        if (r == 0)
            w->n_threads++;
    }
    return r;
}

int worker_new(struct loop *l, unsigned threads, struct worker **ret_worker)
{
    struct worker *w;
    int r;

    if (threads < 1 || threads > WORKER_THREADS_MAX)
        return -EINVAL;
    w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->loop = l;
    queue_init(&w->todo);
    queue_init(&w->finished);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->more, NULL);
    ev_async_init(&w->wake, woken);
    ev_async_start(loop_ev(l), &w->wake);

    r = start_threads(w, threads);
    if (r < 0) {
        worker_stop(w, UINT64_MAX);
        worker_free(w);
        return r;
    }
    *ret_worker = w;
    return 0;
}

void worker_add(struct worker *w, struct job *job)
{
    if (w->n_threads == 0) {
        job->run(job);
        job->done(job);
        return;
    }
    pthread_mutex_lock(&w->mutex);
    queue_add(&w->todo, job);
    pthread_cond_signal(&w->more);
    pthread_mutex_unlock(&w->mutex);
}

static int join(pthread_t thread, uint64_t grace_ms)
{
    struct timespec until;

    if (grace_ms == UINT64_MAX)
        return pthread_join(thread, NULL);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(grace_ms / 1000);
    until.tv_nsec += (long)(grace_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    return pthread_timedjoin_np(thread, NULL, &until);
}

bool worker_stop(struct worker *w, uint64_t grace_ms)
{
    pthread_mutex_lock(&w->mutex);
    w->stopping = true;
    pthread_cond_broadcast(&w->more);
    pthread_mutex_unlock(&w->mutex);

    while (w->n_threads > 0) {
        if (join(w->threads[w->n_threads - 1], grace_ms) != 0)
            return false;
        w->n_threads--;
    }
    finish(w);
    return true;
}

void worker_free(struct worker *w)
{
    if (!w)
        return;
    ev_async_stop(loop_ev(w->loop), &w->wake);
    pthread_cond_destroy(&w->more);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}
