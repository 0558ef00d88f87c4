/* What of a pager outlives it: a memfd that is open in QEMU as well, which keeps it as long as the guest lives. First page a header, then
 * the bitmap of settled pages: those that were installed, or given back by the guest, so that the image's content must never be loaded
 * again. The argument why it is right after a SIGKILL at any instruction stands in install.c. */
#pragma once

#include <linux/userfaultfd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "shim/memory/faults.h"

enum { STATE_VERSION = 1, STATE_HEADER_SIZE = 4096 };

struct state_header {
    char magic[8]; /* "HFPAGERS" */
    uint32_t version, header_size;
    uint64_t ram_size;
    atomic_uint attached; /* a guest may have run */
    atomic_uint complete; /* nothing is missing any more */
    struct uffd_msg batch[FAULTS_BATCH];
};

struct pager_state {
    struct state_header *header; /* the mapping */
    _Atomic uint64_t *settled;
    size_t size, n_words;
};

int state_new(uint64_t ram_size);
/* -EINVAL: not a state, or of another size of RAM. */
int state_open(int fd, uint64_t ram_size, struct pager_state *ret_state, struct err *err);
void state_close_bitmap(struct pager_state *s); /* the header stays */
void state_close(struct pager_state *s);

static inline bool state_is_settled(const struct pager_state *s, uint64_t page)
{
    return atomic_load_explicit(&s->settled[page / 64], memory_order_acquire) >> (page % 64) & 1;
}
/* Settles a run. Returns how many of them, counting only those of `among` (a bitmap), weren't. */
uint64_t state_settle(struct pager_state *s, uint64_t page, uint64_t count, const uint64_t *among);
