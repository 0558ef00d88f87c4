/* The wish of each VM: changed in memory at once, written durably by the writer; a command is answered when that is done. */
#pragma once

#include "lib/manager/vm.h"

struct wish_change {
    int wish; /* enum vm_wanted */
    uint64_t from;
    bool force;
    uint64_t timeout_ms;
    bool deleting, purge;
    bool keep; /* stays in force in memory should it not be writable: for wishes to run */
};

/* Returns the number of the write, for wish_written(). */
uint32_t wish_change(struct vm *vm, const struct wish_change *change);

/* 1: this wish, or a later one, is on disk; 0: not yet; -EIO: it could not be written (logged). */
int wish_written(const struct vm *vm, uint32_t write);

/* A shim has told an incarnation: remembered with the boot, so that its loss with the whole host is noticed. */
void wish_note_incarnation(struct vm *vm);

/* A VM that lives and of which nobody wrote a wish is wished to live on: never destroy on ignorance. */
void wish_adopt(struct vm *vm, uint64_t incarnation);

/* A VM of which nothing lives and nobody wrote a wish: its spec says. */
void wish_default(struct vm *vm);
