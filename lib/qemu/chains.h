/* The disks of a launch plan, read back from its argv: which files each consists of, and where its words are. The inverse of
 * argv_devices.c. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/spec/limits.h"
#include "proto/plan.h"
#include "proto/snapshot.h"

struct chain {
    char node[16]; /* "disk0" */
    size_t index;
    size_t word; /* of the argument of -blockdev in plan.qemu.argv */
    bool readonly;
    struct snapshot_layer layers[1 + BACKING_MAX]; /* nearest first; borrowed from the plan */
    uint64_t fds[1 + BACKING_MAX];                 /* their numbers in plan.qemu.files */
    size_t n_layers;
};

struct chains {
    struct chain items[DISKS_MAX];
    size_t n;
};

/* In the order of the argv. Other -blockdev words, which an operator may have added, are passed over. -EINVAL with id "bad-plan" when a
 * disk's words aren't such as we write. */
int chains_of_plan(const struct plan *plan, struct chains *ret_chains, struct err *err);

/* N of "/dev/fdset/N": 0 or -EINVAL. */
int fdset_of_filename(const char *filename, uint64_t *ret_set);
