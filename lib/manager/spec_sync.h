/* From a look at the folder of specs to the VMs: which are new, edited, broken, gone. */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"

struct manager;
struct spec_folder;
struct vm;

/* What the last look found. */
const struct spec_folder *spec_sync_folder(const struct manager *m);

/* At the start, with nothing known: every spec is a VM's. Takes the folder's content. -ENOMEM. */
int spec_sync_begin_take(struct manager *m, struct spec_folder *folder);

/* A later look. Takes the folder's content. */
void spec_sync_take(struct manager *m, struct spec_folder *folder);

/* Whether an empty folder looks like one that wasn't mounted, or was put in the place of the right one, rather than like one of which all specs
 * were deleted. */
bool spec_sync_is_suspicious(const struct manager *m, const struct spec_folder *folder);

/* The folder can't be read, or can't be believed: shown, and nothing follows from it. `away`: there is none. */
void spec_sync_lost(struct manager *m, const char *why, bool away);
bool spec_sync_is_lost(const struct manager *m);

/* A file that can't be read and of which no VM is known may be any VM's: its name, or NULL when there is none. */
const char *spec_sync_riddle(const struct manager *m);
