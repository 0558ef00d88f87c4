/* Deleting releases: never one that somebody uses, or of which that can't be told. */
#pragma once

#include "lib/images/store.h"

/* The release's folder loses its name at once and is removed then; *ret_freed: bytes of the disk. -EBUSY with id "in-use": a VM's record names
 * it (use.h), or somebody holds its lock. -ENOENT. `state_vms_fd`: STATE/vms, -1: there are no VMs. */
int image_remove(const struct image_store *store, int state_vms_fd, const char *name, const char *version, uint64_t *ret_freed,
                 struct err *err);
/* The same without doing it. */
int image_may_remove(const struct image_store *store, int state_vms_fd, const char *name, const char *version, struct err *err);

/* Bytes that a release's files take on the disk. */
uint64_t image_disk_usage(const struct image_store *store, const char *name, const char *version);
/* Whether somebody holds its lock. */
bool image_is_locked(const struct image_store *store, const char *name, const char *version);

/* What removals that were cut off have left. For the owner of the store, at start. */
void image_sweep(const struct image_store *store);

struct prune_item {
    char *name, *version;
    uint64_t size;
    char *reason; /* why it is kept, NULL: it is deleted */
};
struct prune_list {
    struct prune_item *items;
    size_t n;
};
void prune_list_clear(struct prune_list *list);
#define auto_prune_list auto_cleanup(prune_list_clear)

/* Deletes what is beyond the `keep` newest releases of a name (NULL: of each). Never the newest verified one: while the newest is damaged,
 * that is one more. */
int image_prune(const struct image_store *store, int state_vms_fd, const char *name, uint64_t keep, bool dry_run,
                struct prune_list *ret_list, struct err *err);
