/* Writes a guest's RAM into a snapshot's memory.raw while the guest runs, or while it is stopped.
 *
 * Live: save_protect() write-protects all of it under the running guest, who loses a few microseconds at its first write to each 64 KiB;
 * the guest is stopped; save_freeze() protects again what it wrote meanwhile, and from then on what memory.raw gets is what RAM holds at
 * that moment; the guest runs; save_copy() copies. Who writes to a part that wasn't read yet waits until it was. How much is read and not
 * yet written is bounded: a guest that writes faster than the disk waits for the disk, newer content never gets in.
 * Stopped: save_copy() alone.
 *
 * Whatever goes wrong, the guest goes on: protection is lifted, and no fault is left unanswered. linux/admin-guide/mm/userfaultfd.rst. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/util.h"
#include "proto/memory_image.h"
#include "shim/memory/faults.h"

struct save_config {
    /* NULL: nobody writes meanwhile, and nothing is protected. Else borrowed: _WP is watched from save_protect() until it is over. A pager may
     * watch _MISSING all the while; it can't end before we do (faults_unwatch()). */
    struct faults *faults;
    int uffd;
    uint64_t addr, len; /* of RAM in QEMU; len whole pages */
    int ram_fd;         /* the memfd; -1: */
    int mem_fd;         /* /proc/PID/mem of a stopped QEMU that maps RAM privately; page N is at addr + N * IMAGE_PAGE */
    /* memory.raw, empty. Pages that aren't present stay holes in it. */
    int out_fd;
    struct memory_index *index; /* without a page; filled. Not to be looked at before save_done(). */
    /* A bit for each page whose content is the one of the image that the guest was restored from, and isn't in RAM: bit N % 64 of word N / 64.
     * NULL: none. Read twice. In save_protect(), where it may claim too much but must not claim too little. And from save_freeze()
     * (stopped: save_copy()) on, where it is exact: the caller fills it between, when the guest and QEMU write no more, and doesn't touch
     * it again. A page may still be brought in from the image after that. */
    const uint64_t *from_source;
    int source_fd;
    const struct memory_index *source_index; /* decoded with its sums: they are taken over; a page without one gets a new one */
    /* From a thread of ours, now and then, when save_protected() turns true, and when save_done() does. May only tell its own loop. */
    void (*notify)(void *arg);
    void *arg;
};

struct save;

struct save_progress {
    uint64_t done, total;                /* pages whose fate is settled, of all */
    uint64_t written, zero, from_source; /* of those done; zero ones are neither written nor present */
    uint64_t faults;                     /* times the guest waited at its first write to 64 KiB */
    uint64_t stalls;                     /* of those, how often also for the disk */
};

/* Starts the save's thread, which waits. What `config` points at stays until save_free(). */
int save_new(const struct save_config *config, struct save **ret, struct err *err);
/* save_cancel(), if it isn't done. */
void save_free(struct save *s);
DEFINE_CLEANUP(struct save *, save, save_free)
#define auto_save auto_cleanup(save_cleanup)

/* The guest runs. Begins to protect, on the save's thread: a 4 GiB guest takes it some tenths of a second. */
void save_protect(struct save *s);
bool save_protected(const struct save *s);

/* save_protected(), and the guest is stopped, so that neither it nor QEMU writes to RAM until this has returned. Takes milliseconds. On
 * -errno the save has failed, save_error() says why. */
int save_freeze(struct save *s);

/* The guest may run. save_done() comes in any case. */
void save_copy(struct save *s);

/* It is over, well or not: nothing is protected, and if well, memory.raw is on disk. */
bool save_done(const struct save *s);
/* 0, or what it failed for, in words; -ECANCELED, id "cancelled", after save_stop(). */
int save_error(const struct save *s, struct err *err);
struct save_progress save_progress(const struct save *s);

/* Ends it as soon as may be, at any time; save_done() follows. A save that was done stays so. */
void save_stop(struct save *s);
/* save_stop(), and waits for it: for as long as a write to memory.raw that is under way takes. */
void save_cancel(struct save *s);
