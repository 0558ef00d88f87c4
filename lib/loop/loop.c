#include "lib/loop/loop.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

struct loop {
    struct ev_loop *ev;
    ev_prepare prepare;   /* runs the deferred list right before the loop would sleep: all callbacks of the iteration are done */
    ev_idle idle;         /* active while something is deferred, so that the loop doesn't sleep on it; its callback does nothing */
    struct deferred head; /* sentinel of a ring: head.next is the first, head.prev_next points at the last one's next */
    struct deferred mark; /* in the ring while it is run: up to here */
    int value;
};

static void list_append(struct deferred *head, struct deferred *d)
{
    d->next = head;
    d->prev_next = head->prev_next;
    *d->prev_next = d;
    head->prev_next = &d->next;
}

static void list_remove(struct deferred *d)
{
    if (!d->prev_next)
        return; /* not in the ring */
    *d->prev_next = d->next;
    d->next->prev_next = d->prev_next;
    d->next = NULL;
    d->prev_next = NULL;
}

/* Runs what is queued now. What those functions defer in turn waits for the next iteration, so a node that always defers
 * itself again can't keep the loop from its other work. */
static void run_deferred(struct loop *l)
{
    struct deferred *mark = &l->mark;

    if (l->head.next == &l->head) {
        ev_idle_stop(l->ev, &l->idle);
        return;
    }
    /* The idle watcher stays on for one more round, which doesn't sleep: who runs single iterations (EVRUN_ONCE) and looks
     * at what they changed isn't put to sleep over it. */
    list_append(&l->head, mark);
    while (l->head.next != mark) {
        struct deferred *d = l->head.next;

        list_remove(d);
        d->run(d->arg); /* may free the owner of d */
    }
    list_remove(mark);
}

static void on_prepare(struct ev_loop *ev, ev_prepare *w, int revents) { run_deferred(container_of(w, struct loop, prepare)); }

static void on_idle(struct ev_loop *ev, ev_idle *w, int revents) {}

static void on_periodic(struct ev_loop *ev, ev_periodic *w, int revents) {}

/* libev looks at the clock once a minute to notice jumps of the real time, unless a timerfd tells it of them. It makes that
 * timerfd when the first periodic watcher starts, and keeps it. */
static void arm_timerfd(struct ev_loop *ev)
{
    ev_periodic periodic;

    ev_periodic_init(&periodic, on_periodic, 0., 1e6, NULL);
    ev_periodic_start(ev, &periodic);
    ev_periodic_stop(ev, &periodic);
}

int loop_new(struct loop **ret_loop)
{
    struct loop *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    errno = 0;
    l->ev = ev_loop_new(EVBACKEND_EPOLL | EVFLAG_NOENV);
    if (!l->ev) {
        int r = errno > 0 ? -errno : -ENOMEM;

        free(l);
        return r;
    }
    arm_timerfd(l->ev);
    l->head.next = &l->head;
    l->head.prev_next = &l->head.next;
    ev_prepare_init(&l->prepare, on_prepare);
    ev_prepare_start(l->ev, &l->prepare); /* also keeps ev_run() going when nothing else is watched */
    ev_idle_init(&l->idle, on_idle);
    *ret_loop = l;
    return 0;
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    while (l->head.next != &l->head)
        run_deferred(l);
    ev_prepare_stop(l->ev, &l->prepare);
    ev_idle_stop(l->ev, &l->idle);
    ev_loop_destroy(l->ev);
    free(l);
}

struct ev_loop *loop_ev(struct loop *l) { return l->ev; }

int loop_run(struct loop *l)
{
    l->value = 0;
    ev_run(l->ev, 0);
    run_deferred(l);
    return l->value;
}

void loop_stop(struct loop *l, int value)
{
    l->value = value;
    ev_break(l->ev, EVBREAK_ALL);
}

void loop_defer(struct loop *l, struct deferred *d, void (*run)(void *arg), void *arg)
{
    if (d->prev_next)
        return;
    d->run = run;
    d->arg = arg;
    list_append(&l->head, d);
    ev_idle_start(l->ev, &l->idle);
}

void loop_undefer(struct deferred *d)
{
    /* The idle watcher may stay on for nothing: the next iteration finds the list empty and stops it. */
    list_remove(d);
}
