/* Warming a snapshot: it is restored once, unseen, so that its working set is learned. That is done by a shim that needs nobody
 * (plan.restore.ephemeral): it ends by itself once the guest has settled, stores what it learned, and removes its folder RUN/warm/ID, in
 * which all it has is. We begin it, look on, and tell whoever asked. */
#pragma once

#include <stdbool.h>

struct manager;

#define FOLDER_WARM "warm"

/* Whether a shim lives that warms the snapshot with this id; safe on any thread. */
bool warm_is_running(const struct manager *m, const char *snapshot_id);

/* Folders that shims which were killed have left. Blocks; at the start. */
void warm_sweep(const struct manager *m);

/* At the manager's end: those that were told to go, go on. */
void warm_clear(struct manager *m);
