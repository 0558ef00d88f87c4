/* One manager per run folder. */
#pragma once

#include "lib/base/err.h"

struct manager;

/* Takes RUN/manager.lock, which the kernel releases with our death. -EWOULDBLOCK and who has it. */
int manager_lock_take(struct manager *m, struct err *err);
