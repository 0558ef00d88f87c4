/* Told once when a process ends, child or not, by its pidfd (pidfd_open(2)): no SIGCHLD, no global reaper. */
#pragma once

#include "lib/base/pidref.h"
#include "lib/loop/loop.h"

struct pidwatch {
    ev_io io;
    struct loop *loop;
    void (*exited)(struct pidwatch *w); /* the owner reaps (waitid P_PIDFD) when it is its child */
    void *arg;
};

/* Watches `ref`, whose fd stays the owner's and must outlive the watch. */
void pidwatch_start(struct pidwatch *w, struct loop *l, const struct pidref *ref, void (*exited)(struct pidwatch *w), void *arg);
void pidwatch_stop(struct pidwatch *w); /* fine on a zeroed or stopped one */
