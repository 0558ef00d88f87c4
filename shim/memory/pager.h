/* The pager: fills a guest's RAM from an image (proto/memory_image.h) while the guest runs.
 *
 * Its life: pager_new() starts a thread that writes the known working set, or everything, into the memfd while QEMU is still starting and
 * nobody else can touch it. pager_attach(), at the agent's hello and before its go, ends that and watches the range: from then on a page
 * comes by UFFDIO_COPY or ZEROPAGE alone, because it is needed, near one that is, known to be needed, or in the background. When all pages
 * of the image are in, the range is unregistered and the threads end. Rules and numbers: linux/Documentation/admin-guide/mm/userfaultfd.rst.
 *
 * Functions are called from one thread, unless said. Threads of the pager's never call out but by `notify`. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/base/err.h"
#include "lib/base/util.h"
#include "proto/memory_image.h"
#include "shim/memory/faults.h"

struct pager;

struct pager_config {
    int ram_fd;                       /* the guest's RAM, a memfd of the image's RAM size. Both fds are borrowed for the pager's life */
    int source_fd;                    /* memory.raw */
    int state_fd;                     /* of pager_state_new(); in QEMU as well, where a successor finds it. Only for pager_new() */
    const struct memory_index *index; /* this and `known` are only for pager_new() */
    const struct working_set *known;  /* NULL: none */
    bool everything;                  /* eager: all of it goes into the memfd before the guest runs */
    bool prefetch;                    /* the rest in the background, once settled */
    bool record;                      /* what is needed first, for pager_working_set() */
    void (*notify)(void *arg);        /* from a thread: loaded, settled, complete or failed; look which. May be NULL */
    void *arg;
};

/* A memfd that holds what a successor has to know: which pages are settled, and which events were read and not handled. */
int pager_state_new(uint64_t ram_size);

/* A state that was attached before is a predecessor's, which is resumed: nothing is written into the memfd then. -EINVAL: sizes that don't
 * fit, a state that is none; else -errno. */
int pager_new(const struct pager_config *config, struct pager **ret_pager, struct err *err);

/* Ends the threads, waiting for the read or the MiB under way. Unless complete, the range stays registered: QEMU's next fault waits. */
void pager_free(struct pager *p);
DEFINE_CLEANUP(struct pager *, pager, pager_free)
#define auto_pager auto_cleanup(pager_cleanup)

/* `uffd` is borrowed, its `features` are what the agent said, the RAM is mapped at `addr` of `qemu`. When it returns 0 QEMU may go. With
 * `everything`, -EBUSY before pager_loaded(). Once. */
int pager_attach(struct pager *p, int uffd, uint64_t features, uint64_t addr, pid_t qemu);

/* From any thread. */
bool pager_loaded(const struct pager *p);   /* what was to be written before the guest runs is in: everything, or the known working set */
bool pager_settled(const struct pager *p);  /* the guest has what it needed first; the record is final */
bool pager_complete(const struct pager *p); /* all in, nothing registered, no thread left */
/* 0, or -errno with the words: the source can't be read, a page can't be installed. The guest waits and must not go on. */
int pager_error(struct pager *p, struct err *err);

/* The guest is known to be well (a health probe went green): ends the recording now. From any thread. */
void pager_settle(struct pager *p);

struct pager_stats {
    uint64_t total, present, settled; /* pages: of RAM, in the image, of these settled (in, or given back by the guest) */
    uint64_t faults, zero;            /* faults; those for pages the image hasn't, or the guest had given back */
    uint64_t neighbours;              /* pages installed beside a faulting one */
    uint64_t known, background;       /* pages prefetched: of the known working set, and of the rest */
    uint64_t useless; /* of the known ones that were there before the guest ran: never mapped by QEMU, by its pagemap; asks the kernel */
    uint64_t removed; /* times that the guest gave back pages */
    uint64_t parked;  /* faults that had to be tried again */
    uint64_t bytes_read, bytes_installed;
    uint64_t p50_us, p99_us;             /* from a fault's event being read to its page being there; 0: no faults */
    uint64_t first_fault_us, settled_us; /* since attached; 0: not yet */
    bool gave_up;                        /* settled by the clock, not because the faults had ceased */
};
void pager_stats(struct pager *p, struct pager_stats *ret_stats);

/* What was recorded: the known runs, then what was faulted for, in order of first need. snapshot_id is left empty for the caller.
 * -ENODATA when nothing is recorded. */
int pager_working_set(struct pager *p, struct working_set *ret_set);

/* A bitmap, as memory.index has it, of the pages that the image has and that aren't settled; malloc'ed. For each page: either it is
 * reported, then its content is the image's, whoever installs it later; or what the guest sees is in the memfd already. That holds for a
 * guest that doesn't run during the call, or whose RAM is write-protected: who installs pages then does so protected (faults_watch()).
 *
 * A page that neither the image nor the memfd has is zeros. From any thread, once attached. */
int pager_missing(struct pager *p, uint64_t **ret_bitmap, size_t *ret_words);

/* The thread that reads events, so that a live snapshot can watch for writes on it. NULL before attached; lives as long as the pager. */
struct faults *pager_faults(struct pager *p);
