/* Between the files of save.h: save.c has what the caller calls, save_thread.c the order of work, save_guard.c protection and faults, save_pages.c the bytes. */
#pragma once

#include <pthread.h>

#include "shim/memory/save.h"

enum {
    BLOCK_PAGES = 16,
    BLOCK_SIZE = BLOCK_PAGES * IMAGE_PAGE, /* protection is lifted from so much at a time */
    BATCH_BLOCKS = 16,                     /* the copier's step, 1 MiB: who writes into it waits for its memcpy */
    BATCH_SIZE = BATCH_BLOCKS * BLOCK_SIZE,
    BUFFERS = 1024, /* blocks read for a fault and not yet written, 64 MiB */
    NARROW_ROUNDS = 6,
    NARROW_ENOUGH = 32,
    RETRY_US = 100, /* while the fault thread reads the event that an ioctl waits for */
    RETRY_MAX_US = 2 * 1000 * 1000,
};
#define BUFFERS_SIZE ((size_t)BATCH_SIZE + (size_t)BUFFERS * BLOCK_SIZE)
#define CHUNK_SIZE (UINT64_C(64) << 20) /* protected at a time: QEMU's mmap_lock is held for about 2 ms */

enum block_state { BLOCK_PROTECTED, BLOCK_READING, BLOCK_DONE }; /* done: its content was taken */

struct block {
    uint16_t need; /* bit N: page N must be read: not a hole when it was frozen, nor the source's */
    uint8_t state;
    bool dirty; /* it was written to, or changed otherwise, between save_protect() and save_freeze() */
    bool gone;  /* pages of it were given back: `need` may claim too much */
};

enum save_phase { SAVE_OPEN, SAVE_TRACKING, SAVE_FROZEN, SAVE_ENDED }; /* ended: whoever faults goes on at once */

/* What was read for a fault; its content is buffer N. */
struct taken {
    uint64_t block;
    uint16_t pages; /* those that aren't zero */
    uint16_t next;  /* in the queue, or among the free ones */
};
enum { NO_BUFFER = UINT16_MAX };

struct save {
    struct save_config config;
    uint64_t n_pages, n_blocks;
    pthread_t thread;
    bool joined;          /* the caller's thread alone */
    unsigned char *batch; /* BATCH_SIZE, then BUFFERS times BLOCK_SIZE; there until the thread ends */
    uint64_t *before;     /* `from_source` as it was in save_protect() */
    uint64_t told;        /* when notify() was last called */

    pthread_mutex_t lock; /* of all that follows */
    pthread_cond_t work;  /* the save's thread waits: for a wish, a buffer to write, the fault thread's read to end */
    pthread_cond_t room;  /* the fault thread waits: for a buffer, or for the copier's read to end */
    enum save_phase phase;
    bool want_protect, want_copy, protected, done;
    struct block *blocks;
    uint64_t cursor; /* no block before it is BLOCK_PROTECTED */
    bool reading;    /* the fault thread reads a block */
    struct taken taken[BUFFERS];
    uint16_t free, head, tail; /* lists of buffers: free ones, last freed first, and those to be written */
    struct save_progress progress;
    struct err err;
};

/* ---- save.c ---- */

/* Whoever faults goes on from here on, and the thread stops what it does and lifts the rest of the protection. With `lock` held. */
void save_end_locked(struct save *s);
/* The first failure ends the save. With `lock` held, or not. */
void save_fail_locked(struct save *s, const struct err *err);
void save_fail(struct save *s, const struct err *err);
bool save_ended(struct save *s); /* or is to end */
/* A block's pages were written, those in `pages`, or are zero. With `lock` held. */
void save_settle(struct save *s, uint64_t block, uint16_t pages);
/* The pages of the block that are to be copied from the source. */
uint16_t save_source_pages(const struct save *s, const uint64_t *from_source, uint64_t block);

void save_drop_source(struct save *s); /* from the pages that need reading */

/* ---- save_thread.c ---- */

void *save_run(void *save);
/* Calls notify(), unless it just did. On the save's thread. */
void save_tell(struct save *s);

/* ---- save_guard.c ---- */

int save_guard(struct save *s, struct err *err); /* registers, protects all */
void save_unguard(struct save *s);               /* phase is SAVE_ENDED: lifts all protection, wakes all, takes the handler away */
/* The dirty blocks again, while the guest runs, as long as they become fewer: one takes the freeze up to 20 us, and many are written to
 * while all of a large guest is gone through. */
int save_narrow(struct save *s, struct err *err);
int save_reguard(struct save *s, struct err *err); /* with `lock` held, which it lets go of between: the dirty blocks; then SAVE_FROZEN */
/* Protection of blocks that are done is a delay and no more. */
void save_lift(struct save *s, uint64_t block, uint64_t count);

/* ---- save_pages.c ---- */

/* "can't WHAT FILE: …" */
int save_say(struct err *err, int code, const char *what, int fd);
/* Sets which pages need reading, of all blocks. */
int save_find_pages(struct save *s, struct err *err);
/* The same once more for blocks that changed since. Not by looking for holes: from a page on the kernel walks to the next one, maybe through
 * all of RAM. */
int save_find_new_pages(struct save *s, uint64_t block, uint64_t count, struct err *err);
/* Reads the block's pages that need it; those that aren't zero: *ret_pages. */
int save_read_block(struct save *s, uint64_t block, unsigned char *buffer, uint16_t *ret_pages, struct err *err);
/* Writes the blocks from `block` on, `pages` of each. */
int save_write_blocks(struct save *s, uint64_t block, const unsigned char *buffer, const uint16_t *pages, size_t count, struct err *err);
/* Copies what is the source's. */
int save_copy_source(struct save *s, struct err *err);
