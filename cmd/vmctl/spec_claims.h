/* What the specs of one command claim of the host, held against each other: two that are enabled can't have the same. */
#pragma once

#include "cmd/vmctl/spec_file.h"
#include "lib/spec/claims.h"

struct claimant;

struct claimants {
    struct claimant *items;
    size_t n;
};

/* Adds problems to the file for what earlier ones have already; then its own claims count for those to come. For a file without problems. */
void claimants_add(struct claimants *c, struct spec_file *f);
void claimants_clear(struct claimants *c);
#define auto_claimants auto_cleanup(claimants_clear)
