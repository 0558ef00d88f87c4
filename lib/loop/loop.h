/* The event loop: one private libev loop (never the default one, which reaps every child), plus a deferred list.
 *
 * Users embed ev_io and ev_timer watchers of <ev.h> in their own structs and start them on loop_ev(). Rules: a callback never
 * frees its own owner, it hands the owner to loop_defer(); a write watcher runs only while something is queued; nothing
 * blocks. An idle loop makes no wakeups at all: libev's clock-jump check once a minute is moved to a timerfd at creation. */
#pragma once

#include <ev.h>

#include "lib/base/util.h"

struct loop;

int loop_new(struct loop **ret_loop); /* -ENOMEM, -EMFILE… */
void loop_free(struct loop *l);       /* runs what is still deferred first */
DEFINE_CLEANUP(struct loop *, loop, loop_free)
#define auto_loop auto_cleanup(loop_cleanup)

struct ev_loop *loop_ev(struct loop *l);

/* Runs until loop_stop(); returns the value given there. */
int loop_run(struct loop *l);
void loop_stop(struct loop *l, int value);

/* Has `run(arg)` called once after the callbacks of this iteration, in order. The node lives in the owner; deferring a
 * node that is already queued changes nothing; loop_undefer() takes it out. */
struct deferred {
    struct deferred *next, **prev_next;
    void (*run)(void *arg);
    void *arg;
};
void loop_defer(struct loop *l, struct deferred *d, void (*run)(void *arg), void *arg);
void loop_undefer(struct deferred *d);
