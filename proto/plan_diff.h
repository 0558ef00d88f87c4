/* What is different between two launch plans of one VM, and whether a QEMU that runs by the first can be made to run by the second.
 *
 * A running QEMU can be given other forwards of its user networks; what the shim does itself (health probes, restart policy, stop ladder,
 * logs) can always change. All the rest, and whatever a later version adds to plans, needs a restart. How a plan's next start begins
 * (restore) says nothing of what the VM is and isn't compared. */
#pragma once

#include "proto/plan.h"

/* Names of changes that mean more than their place: lib/qemu/changes.c finds the operator's words for them. */
#define PLAN_CHANGE_FORWARDS "/network/forward" /* rules, or only their order */
#define PLAN_CHANGE_CAPABILITIES "/qemu/capabilities"
#define PLAN_CHANGE_ARGV "/qemu/argv" /* without the forwards; old and new: the words that only one of them has */

struct plan_change {
    char *what; /* place in the plan as a JSON Pointer: "/logs", "/qemu/env" */
    char *old;  /* as JSON; NULL: not there */
    char *new;
    bool live;
};

/* One rule to take from a running QEMU, or to give to it. */
struct forward_step {
    char *netdev; /* its id: "net0" */
    char *rule;   /* "tcp:127.0.0.1:8080-:80", as in the argv */
    bool add;
};

struct plan_diff {
    struct plan_change *changes;
    size_t n_changes; /* 0: the plans are the same but for how the next start begins */
    struct forward_step *steps;
    size_t n_steps; /* first all that are to go, so that a port can change hands */
};

/* 0 or -ENOMEM. */
int plan_compare(const struct plan *old, const struct plan *new, struct plan_diff *ret_diff);
/* The first change that needs a restart, or NULL when all of them can be made live. */
const struct plan_change *plan_diff_obstacle(const struct plan_diff *diff);
const struct plan_change *plan_diff_find(const struct plan_diff *diff, const char *what);
void plan_diff_clear(struct plan_diff *diff);
#define auto_plan_diff auto_cleanup(plan_diff_clear)
