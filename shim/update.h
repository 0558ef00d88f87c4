/* One change of the plan under a running QEMU: update.c is its course, update_forwards.c what is said to QEMU. */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"
#include "lib/loop/loop.h"
#include "proto/plan.h"
#include "proto/plan_diff.h"

struct varlink_call;
struct vm;

struct update {
    struct update *next; /* waits until this one is done */
    struct vm *vm;
    struct varlink_call *call; /* NULL: whoever asked has gone, or it was a dead shim's */
    struct plan plan;          /* the new one; once it is committed what is left of the old one */
    struct plan_diff diff;
    size_t done;    /* steps that QEMU has taken */
    size_t undoing; /* answers that are awaited while steps are taken back */
    bool unsure;    /* what QEMU made of it nobody has heard */
    bool begun;
    bool waited;    /* for QEMU's monitor, in vain */
    bool abandoned; /* the shim is leaving */
    struct err err; /* why it failed */
    struct deferred turn;
    ev_timer monitor; /* active: it waits for QEMU's monitor */
};

/* Whether QEMU's monitor can be told these words: they are letters, digits and what addresses have. */
bool update_steps_are_plain(const struct plan_diff *diff);

/* Has QEMU take the steps one by one, and ends in update_forwarded() or, with all of them taken back, in update_failed(). */
void update_forward(struct update *u);
/* Takes back the first `n` steps, whether they had been taken or not; ends in update_failed(). */
void update_undo(struct update *u, size_t n);

/* ---- update.c ---- */
void update_forwarded(struct update *u);
void update_failed(struct update *u);
void update_free(struct update *u);
