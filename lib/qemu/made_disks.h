/* The disks of a spec that are made of files: behind its own, read-only. Used by resolve.c only. */
#pragma once

#include "lib/qemu/resolve.h"
#include "lib/spec/limits.h"

/* A spec with those disks in its list. `spec` borrows from the input; of its disks only the paths of the added ones are its own. */
struct made_disks {
    struct spec spec;
    struct spec_disk disks[DISKS_MAX];
    const char *names[2];
    size_t n;
};
int made_disks_init(const struct resolve_input *in, struct made_disks *ret, struct err *err);
void made_disks_clear(struct made_disks *made);
#define auto_made_disks auto_cleanup(made_disks_clear)

/* Adds their steps, and what the shim is told of them. The plan's arrays have room. */
int made_disks_push(const struct resolve_input *in, const struct made_disks *made, struct plan *plan);
