/* How a snapshot's memory lies in the whole, for a bar of 64 columns. Pure. */
#pragma once

#include "lib/base/json.h"
#include "proto/memory_image.h"

enum { COVERAGE_PARTS = 64 };

struct coverage {
    uint64_t pages;                  /* of all memory */
    uint64_t covered;                /* of them */
    uint64_t counts[COVERAGE_PARTS]; /* of them, by part; part i begins at page i * pages / 64 */
};

void coverage_add(struct coverage *c, uint64_t first, uint64_t count);
void coverage_of_index(const struct memory_index *index, struct coverage *ret);
/* -ENOMEM. */
int coverage_of_working_set(const struct working_set *set, struct coverage *ret);

/* 0 to 100: above 0 for the least that is covered, 100 only for a part that wholly is. */
unsigned coverage_percent(const struct coverage *c, unsigned part);
/* An array of all parts, NULL: out of memory. */
json_t *coverage_to_wire(const struct coverage *c);
