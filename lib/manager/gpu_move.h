/* gpus_take() and gpus_give_back() off the loop: on a thread for each VM, since a driver that doesn't let go may hold one up for minutes, or for
 * ever, and nobody else is to wait for it. */
#pragma once

#include "lib/manager/gpus.h"
#include "lib/manager/vm.h"

struct gpu_move;

enum { GPU_MOVE_DEADLINE_MS = 60 * 1000 };

/* Takes what is wished (taken) and calls `done` on the loop: 0, or -errno and why. The VM has no other move (vm->gpu_move). -errno: not begun. */
int gpu_move_take(struct vm *vm, struct gpu_wish *wish, void (*done)(struct vm *vm, int r, const struct err *err));

/* `done` won't be called: what is taken is given back when that is over. */
void gpu_move_abandon(struct vm *vm);

/* Nothing of the VM lives and nothing is about to: what it has is given back, if it has anything. */
void gpu_move_settle(struct vm *vm);

/* Of VMs that are no more, at the start. */
void gpu_move_sweep(struct manager *m);

/* At the manager's end: waits that long for each. False: a driver holds up a thread; the process should leave by _exit(2). */
bool gpu_moves_stop(struct manager *m, uint64_t grace_ms);
