/* A guest for the tests of shim/memory: RAM in a memfd, mapped in this very process, with a userfaultfd of its own; and an image of it, filled
 * with a pattern that depends on seed, page and word, so that no page can be taken for another. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "proto/memory_image.h"

struct guest {
    uint64_t seed, pages, size;
    int ram, source, state, uffd;
    uint64_t features;
    uint64_t *map; /* NULL: unmapped */
    struct memory_index *index;
};

/* Prints why and exits 77 where this kernel has no userfaultfd for us. For the begin of a main(). */
void guest_need_userfaultfd(void);

/* Image and state; absent pages come in runs, `absent` percent of all. */
void guest_make(struct guest *g, uint64_t pages, unsigned absent);
/* The RAM, empty, mapped, with a userfaultfd. */
void guest_map(struct guest *g);
void guest_done(struct guest *g);
uint64_t guest_addr(const struct guest *g);

uint64_t guest_word(const struct guest *g, uint64_t page, unsigned word); /* as the image has it: 0 in absent pages */
/* Reads all of the page. The first word that is wrong is printed. */
bool guest_page_is_right(const struct guest *g, uint64_t page);
bool guest_page_is_zero(const struct guest *g, uint64_t page);
/* An order of all pages that looks random. */
uint64_t guest_nth(const struct guest *g, uint64_t i);
