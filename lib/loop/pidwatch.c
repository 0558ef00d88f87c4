#include "lib/loop/pidwatch.h"

#include <stddef.h>

static void on_readable(struct ev_loop *ev, ev_io *io, int revents)
{
    struct pidwatch *w = container_of(io, struct pidwatch, io);

    /* A pidfd stays readable for good: told once, so stop first. */
    pidwatch_stop(w);
    w->exited(w);
}

void pidwatch_start(struct pidwatch *w, struct loop *l, const struct pidref *ref, void (*exited)(struct pidwatch *w), void *arg)
{
    pidwatch_stop(w);
    *w = (struct pidwatch){ .loop = l, .exited = exited, .arg = arg };
    ev_io_init(&w->io, on_readable, ref->fd, EV_READ);
    ev_io_start(loop_ev(l), &w->io);
}

void pidwatch_stop(struct pidwatch *w)
{
    if (!w->loop)
        return;
    ev_io_stop(loop_ev(w->loop), &w->io);
    w->loop = NULL;
}
