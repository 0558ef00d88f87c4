/* What reconcile.c has decided on, done to a shim. */
#pragma once

#include "lib/manager/vm.h"

/* Asks the shim to stop the incarnation that runs, as gently as the wish says. */
void act_stop(struct vm *vm);
