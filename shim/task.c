#include "shim/task.h"

#include <errno.h>
#include <pthread.h>

#include "lib/base/thread.h"

enum { STACK_SIZE = 256 * 1024 };

struct task {
    struct task_work work;
    struct task **slot;
    struct loop *loop;
    pthread_t thread;
    ev_async ended;
    int r;
    struct err err;
};

static void *run(void *arg)
{
    struct task *t = arg;

    t->r = t->work.run(t->work.arg, &t->err);
    ev_async_send(loop_ev(t->loop), &t->ended);
    return NULL;
}

static struct task *join(struct task **slot)
{
    struct task *t = steal_ptr(slot);

    (void)pthread_join(t->thread, NULL);
    ev_async_stop(loop_ev(t->loop), &t->ended);
    return t;
}

static void on_ended(struct ev_loop *ev, ev_async *w, int revents)
{
    struct task *t = join(container_of(w, struct task, ended)->slot);

    t->work.done(t->work.arg, t->r, &t->err);
    free(t);
}

int task_start(struct loop *l, const struct task_work *work, struct task **slot)
{
    struct task *t = calloc(1, sizeof(*t));
    int r;

    if (!t)
        return -ENOMEM;
    t->work = *work;
    t->slot = slot;
    t->loop = l;
    ev_async_init(&t->ended, on_ended);
    ev_async_start(loop_ev(l), &t->ended);
    r = thread_start(STACK_SIZE, run, t, &t->thread);
    if (r < 0) {
        ev_async_stop(loop_ev(l), &t->ended);
        free(t);
        return r;
    }
    *slot = t;
    return 0;
}

void task_join(struct task **slot)
{
    if (*slot)
        free(join(slot));
}
