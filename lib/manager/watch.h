/* The folder of specs and the host config are watched, and looked at again when something in them may have changed (spec_sync.h, reload.h). */
#pragma once

#include <stdbool.h>

struct manager;
struct watch;

/* Nothing is watched yet. -ENOMEM. */
int watch_new(struct manager *m);
/* Begins to watch, with a first look at once. Without inotify, or where it doesn't tell everything, it is looked at every RESCAN_MS. */
void watch_begin(struct manager *m);
/* After the workers have stopped. */
void watch_free(struct watch *w);

/* Has specs and host config looked at (again) soon. */
void watch_kick(struct manager *m);

/* Around every write of the manager's own to the folder of specs: a look meanwhile would see half of it. On the loop: before the job is
 * handed over, and when what was written is noted. */
void watch_hold(struct manager *m);
void watch_release(struct manager *m);
