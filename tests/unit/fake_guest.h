/* A guest that is threads of this process: RAM is a memfd, mapped as QEMU maps it, watched through a userfaultfd; and its threads write
 * seeded patterns all over it until they are stopped. For the tests and benches of shim/memory. */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "shim/memory/faults.h"

enum { FAKE_PAGE = 4096, FAKE_WRITERS = 2 };

struct fake_writer {
    struct fake_guest *guest;
    pthread_t thread;
    uint64_t number, seed;
};

struct fake_guest {
    int ram_fd, uffd;
    uint64_t len, pages;
    unsigned char *ram; /* QEMU's mapping */
    struct faults *faults;
    /* Set before fake_guest_start(). */
    uint64_t rate; /* pages a second and writer; 0: as many as it can */
    uint64_t area; /* pages from the first one on that are written to */
    bool whole;    /* whole pages with a new pattern, one after the other; else all kinds of writes anywhere */

    struct fake_writer writers[FAKE_WRITERS];
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, stopped, ending;
    unsigned halted;
    atomic_ulong writes;
};

/* Why there can be none here ("SKIP kernel: …"), or NULL. */
const char *fake_guest_lacking(void);

void fake_guest_new(struct fake_guest *g, uint64_t len);
/* Ends it; then touches all of its RAM with nobody to answer a fault: whoever left protection behind hangs. */
void fake_guest_free(struct fake_guest *g);
void fake_guest_start(struct fake_guest *g);
void fake_guest_stop(struct fake_guest *g); /* returns when nobody writes */
void fake_guest_cont(struct fake_guest *g);
/* The page gets a pattern that no other seed gives. */
void fake_pattern(void *page, uint64_t seed);
uint64_t fake_random(uint64_t *state);
