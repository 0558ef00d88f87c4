/* The pager between its own files: pager.c (life), pager_told.c, plain.c and loader.c (its thread), serve.c (what the events' thread does),
 * install.c (how a page gets in), source.c. */
#pragma once

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "shim/memory/latency.h"
#include "shim/memory/pager.h"
#include "shim/memory/pager_state.h"
#include "shim/memory/recorder.h"
#include "shim/memory/uffd.h"

enum {
    CHUNK = 64,        /* pages installed at once: from 256 KiB on the kernel isn't faster, and a fault waits no longer than that */
    PIECE = 16,        /* pages of a neighbourhood between two looks for new faults: 64 KiB */
    BLOCK = 256,       /* pages of which the faults are counted together: 1 MiB, the largest neighbourhood */
    WINDOWS_MAX = 64,  /* neighbourhoods that wait; what is beyond comes by faults of its own */
    HINTS_MAX = 64,    /* neighbourhoods for the loader */
    HINTS_BEHIND = 32, /* with so many waiting it can't keep up with the faults */
    SOURCE_TRIES = 3,  /* of a read that fails */
    QEMU_GONE = ESRCH, /* `error` when there is nobody to serve any more; not told as one */
};

struct window {
    uint64_t page, end;
    bool zero; /* pages that the image hasn't */
};

struct pager {
    struct pager_config config;
    struct pager_state state;
    uint64_t ram_size, pages, n_present;
    uint64_t *present;           /* the image's bitmap */
    atomic_ulong left;           /* pages of the image that aren't settled */
    atomic_ulong left_at_attach; /* … when the guest began to run; 0: before that */
    bool resumed;                /* state is a predecessor's */
    bool source_in_ram;          /* tmpfs: never waits, and knows no RWF_NOWAIT */
    bool plain;                  /* may be written into before the guest runs */
    struct page_run *known;      /* sorted, gaps closed */
    size_t n_known;
    uint64_t known_plain; /* known pages below this one were there before the guest ran */

    /* since attached */
    struct faults *faults;
    int uffd; /* borrowed */
    uint64_t addr, attached_us;
    pid_t qemu;

    /* `lock` guards: error, hints, and what `cond` is told of. It is the last to be taken. */
    pthread_mutex_t lock;
    pthread_cond_t cond;
    int error; /* positive errno */
    struct err error_text;
    struct window hints[HINTS_MAX];
    size_t n_hints;
    bool attached, ending, settle_now;
    bool looking;       /* the loader looks for hints by itself, every millisecond … */
    uint64_t hinted_us; /* … because there was one not long ago */

    pthread_mutex_t plain_lock; /* held while a chunk is written plainly */
    atomic_bool attaching;
    pthread_t loader;
    bool loader_started;
    atomic_bool loaded, settled, complete, gave_up;

    /* The events' thread's own. */
    pthread_mutex_t serving; /* held from a page's ioctl until it is marked, see pager_missing() */
    char *buffer;            /* CHUNK pages; only while attached */
    uint8_t *heat;           /* faults in each BLOCK, up to 255 */
    uint64_t window;         /* pages of a neighbourhood in a block that has had no fault */
    uint64_t next;           /* where a fault would go on from the last neighbourhood … */
    unsigned isolated;       /* faults in a row that had nothing to do with an earlier one */
    struct window windows[WINDOWS_MAX];
    size_t n_windows;

    struct recorder recorder;
    struct latency latency;
    atomic_ulong n_zero, n_neighbours, n_known_in, n_background, bytes_read, bytes_installed, first_fault_us, settled_us;
};

static inline bool pager_has(const struct pager *p, uint64_t page) { return p->present[page / 64] >> (page % 64) & 1; }
static inline uint64_t pager_addr(const struct pager *p, uint64_t page) { return p->addr + page * UFFD_PAGE; }

/* source.c. CHUNK pages for what is read, of the kernel's rather than the allocator's: given back at once. NULL: no memory. */
char *source_buffer_new(void);
void source_buffer_free(char *buffer); /* NULL is fine */
/* Pages read into `buf` (of whole pages). 0; or -errno after SOURCE_TRIES, also for a source that ends too early. */
int source_read(struct pager *p, uint64_t page, uint64_t count, void *buf);
/* Only what needs no waiting: how many pages from the first on were read. */
uint64_t source_read_resident(struct pager *p, uint64_t page, uint64_t count, void *buf);
/* Has them read into the page cache, some time. */
void source_will_need(struct pager *p, uint64_t page, uint64_t count);

/* install.c. `buf` NULL: zeros. 0; -EAGAIN: an event is to be read first; -ESRCH, …; some of it may be in by then. The caller holds
 * `serving` on the events' thread, else faults_lock(), since before it looked whether they are settled. *count is added to. */
int pager_install(struct pager *p, uint64_t page, uint64_t count, const void *buf, atomic_ulong *count_in);
void pager_settle_pages(struct pager *p, uint64_t page, uint64_t count);
/* The next run at or after *page, before `end`, of at most `max` pages that aren't settled and that the image has, or hasn't. */
bool pager_next_run(const struct pager *p, uint64_t *page, uint64_t end, uint64_t max, uint64_t *ret_count, bool *ret_present);

/* pager.c. Any thread. */
void pager_fail(struct pager *p, int error, const char *what, uint64_t page); /* the first one counts */
void pager_notify(struct pager *p);
bool pager_is_ending(struct pager *p);
void pager_wake_loader(struct pager *p);
void pager_finish(struct pager *p); /* nothing is missing nor registered: lets go of what was only needed until then */

/* serve.c: the handlers. */
extern const struct fault_handler pager_handler;
/* loader.c: the thread. */
void *pager_loader(void *arg);
