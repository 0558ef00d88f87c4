/* Going over an image in chunks: over the known runs, with the zeros among them, or all of its pages; what is settled already is left out. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/memory_image.h"

struct pager;

struct cursor {
    size_t run;
    uint64_t page;
    uint64_t chunks;
};

struct walk {
    struct pager *p;
    const struct page_run *runs; /* NULL: all */
    size_t n_runs;
    struct cursor now, ahead;
    char *buffer;
};

struct chunk {
    uint64_t page, count;
    bool present;
};

/* The next chunk; sees to it that those after it are being read meanwhile. */
bool walk_next(struct walk *w, struct chunk *ret_chunk);

/* plain.c. Writes what is left of the walk into the memfd, until the guest may run. */
void walk_write_plainly(struct walk *w);
