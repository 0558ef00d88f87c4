/* Start-up: everything there is on disk is found, every shim is asked at once, and serving begins when all have answered or the
 * grace is over. */
#pragma once

#include "lib/base/err.h"
#include "lib/manager/vm.h"

struct manager;

/* Enumerates specs, wishes and run folders, and begins to connect. */
int adopt_begin(struct manager *m, struct err *err);

/* What became of this VM is known: it counts no more. */
void adopt_settled(struct vm *vm);
