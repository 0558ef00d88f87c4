/* The guest's RAM as the shim sees it: the memfd, the userfaultfd that the preload library made in QEMU (shim/agent/agent.h), and, for a
 * guest that was restored, the snapshot its pages come from. One per QEMU: it begins with a launch or an adoption and ends with that QEMU. */
#pragma once

#include <jansson.h>

#include "lib/base/err.h"
#include "lib/base/spawn.h"
#include "lib/loop/loop.h"
#include "proto/memory.h"
#include "proto/memory_image.h"
#include "proto/snapshot.h"
#include "shim/memory/pager.h"

struct vm;

/* What a guest is restored from. */
struct ram_source {
    struct memory_state state;  /* .folder NULL: the RAM was empty at the start */
    struct snapshot snapshot;   /* not read again by an adoption: schema 0 */
    struct memory_index *index; /* while pages may be missing */
    struct working_set known;   /* n_runs 0: none was recorded yet */
    int image;                  /* memory.raw with a shared flock(2); -1: not needed any more */
    int pages;                  /* pager_state_new() */
    struct pager *pager;        /* while it has something to do */
    struct pager_stats last;    /* of the pager when it was done */
    char *warning;              /* for an event, of what isn't used; NULL: none */
    bool settled, stored;       /* the recording is over; its record is written */
};

struct ram {
    struct vm *vm;
    int memfd;                    /* -1: not shared with us */
    int uffd;                     /* -1: QEMU hasn't made one (yet) */
    uint64_t addr, len, features; /* of the mapping; len 0: not mapped yet */
    uint32_t error;               /* errno of why there is no userfaultfd */
    ev_io hello;                  /* the preload library's word; fd -1 */
    ev_async woken;               /* by the pager's threads */
    /* What QEMU inherits, ours only until it is forked. */
    int socket, device, preload;
    struct ram_source source;
    struct faults *faults; /* of ours, while a snapshot of a guest without a pager needs it */
};

/* For a launch: makes the memfd and what the preload library needs; for a restore also reads the snapshot and begins to load what is known to
 * be needed. `vm->ram` is made. */
int ram_begin(struct vm *vm, struct err *err);
/* Adds what QEMU inherits; returns how many. */
enum { RAM_FDS_MAX = 6 };
size_t ram_fds(const struct ram *ram, struct spawn_fd fds[RAM_FDS_MAX]);
/* LD_PRELOAD and what belongs to it, "KEY=VALUE"; NULL-ended, constant. */
const char *const *ram_environment(const struct ram *ram);
void ram_forked(struct ram *ram);

/* Takes over what a dead shim left: finds the mapping, fetches the descriptors out of QEMU, goes on paging. Faults that waited for the
 * predecessor are served. What can't be taken over is told as an event unless the guest would see wrong memory for it: that is an error. */
int ram_adopt(struct vm *vm, struct err *err);

void ram_end(struct vm *vm); /* QEMU is gone, or will be another shim's */

/* 1: the RAM is as it should be before device state may be loaded; 0: not yet, restore_poke() follows; -errno with words. */
int ram_ready(const struct ram *ram, struct err *err);
bool ram_is_lazy(const struct vm *vm); /* pages may still be missing */
bool ram_is_mapped(const struct vm *vm);

/* Can a live snapshot keep the guest from writing? */
bool ram_can_protect(const struct vm *vm);
/* The thread that reads the userfaultfd's events: the pager's, or one made for the caller, to be given back. */
int ram_faults(struct vm *vm, struct faults **ret_faults);
void ram_faults_done(struct vm *vm);

/* The guest was let run. */
void ram_guest_runs(struct vm *vm);

/* The parameters of GetMemory's reply. NULL: out of memory. */
json_t *ram_to_wire(const struct vm *vm);

/* ---- for ram_adopt.c ---- */
struct ram *ram_new(struct vm *vm);
int ram_start_pager(struct ram *ram, struct err *err);

/* ---- ram_source.c: what is known of the snapshot ---- */

/* Opens, checks and locks what plan.restore names. Blocks, and touches nothing of the loop's. -EINVAL "bad-snapshot", -ENOENT "no-snapshot", …: the words name file and remedy. */
int ram_source_open(const struct vm *vm, struct ram_source *ret_source, struct err *err);
/* For an adoption, by the record on disk. Its image and pages are fetched by the caller. */
int ram_source_reopen(struct vm *vm, struct ram_source *ret_source, struct err *err);
int ram_source_read_index(const struct vm *vm, const char *folder, bool with_sums, struct memory_index **ret, struct err *err);
void ram_source_close(struct ram_source *source);
/* memory.json, before QEMU uses the RAM. */
int ram_source_write(struct vm *vm, const struct ram_source *source);
/* The recorded order of first need, beside the snapshot. */
int ram_source_store_working_set(const struct vm *vm, struct ram_source *source, struct err *err);
