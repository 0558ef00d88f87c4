/* Who still needs a snapshot's files: shims say what memory of theirs comes from one, and the disk says whose disks are on files in one.
 * Whoever can't be asked counts as using all of them: never destroy on ignorance. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/snapshots.h"

struct manager;
struct snapshot_users;

/* Asks all shims, each for SHIM_TIMEOUT_MS at most, then gives `done` what they said, on the loop; may be at once. `users` is done()'s to
 * free; NULL: out of memory. */
void snapshot_users_ask(struct manager *m, void (*done)(void *arg, struct snapshot_users *users), void *arg);
void snapshot_users_free(struct snapshot_users *users);
DEFINE_CLEANUP(struct snapshot_users *, snapshot_users, snapshot_users_free)
#define auto_snapshot_users auto_cleanup(snapshot_users_cleanup)

/* What the disk says, once asked; blocks, for a worker's thread. -ENOMEM, or why a folder can't be read. */
int snapshot_users_read(struct snapshot_users *users, const struct manager *m);

/* Who uses the snapshot, "web" or "snapshot web/later", as an array; *ret_silent: a VM that can't be asked, NULL: none, borrowed. */
int snapshot_users_of(const struct snapshot_users *users, const struct manager *m, const struct snapshot_info *info, json_t **ret_names,
                      const char **ret_silent);

/* For tests, and the parts of the above: one more user by words on disk, `text`; by memory, `text` "VM/SNAPSHOT"; or one that is silent,
 * NULL. */
enum snapshot_use { USE_DISKS, USE_MEMORY, USE_UNKNOWN };
int snapshot_users_add(struct snapshot_users *users, enum snapshot_use use, const char *name, const char *text);
struct snapshot_users *snapshot_users_new(void);
