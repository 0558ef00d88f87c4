/* The wish of each VM: changed in memory at once, written durably by the writer; a command is answered when that is done. */
#pragma once

#include "lib/manager/vm.h"

struct wish_change {
    int wish; /* enum vm_wanted */
    uint64_t from;
    bool force;
    uint64_t timeout_ms;
    bool deleting, purge;
    bool by_spec;                         /* not a command's wish */
    const struct wanted_restore *restore; /* how that life begins, copied; NULL: it boots */
    bool keep;                            /* stays in force in memory should it not be writable: for wishes to run */
};

/* Returns the number of the write, for wish_written(), which also tells when there was no memory for it: then nothing has changed. */
uint32_t wish_change(struct vm *vm, const struct wish_change *change);

/* The wish to run that there is, for a later incarnation than it says: its restore goes with it. */
void wish_begin_at(struct vm *vm, uint64_t from);

/* 1: this wish, or a later one, is on disk; 0: not yet; -EIO: it could not be written (logged). */
int wish_written(const struct vm *vm, uint32_t write);

/* A shim has told an incarnation: remembered with the boot, so that its loss with the whole host is noticed. */
void wish_note_incarnation(struct vm *vm);

/* Whether the VM is to begin from a snapshot and hasn't yet. */
bool wish_restore_is_due(const struct vm *vm);
/* Whether the life that was to begin from a snapshot was begun and has not been seen to run: while it lives it is being restored,
 * afterwards that has failed. */
bool wish_restore_is_open(const struct vm *vm);
/* What is known of an incarnation, live or on disk: once one runs its restore is done, and is wished for no longer. */
void wish_note_state(struct vm *vm, uint64_t incarnation, enum vm_state state);

/* A VM that lives and of which nobody wrote a wish is wished to live on: never destroy on ignorance. */
void wish_adopt(struct vm *vm, uint64_t incarnation);

/* A VM of which nothing lives and nobody wrote a wish, or one that its spec did: its spec says. */
void wish_default(struct vm *vm);
