/* STATE/vms/NAME/disks.json: the files a VM's disks consist of since it was snapshotted or restored. Kept by the shim alone.
 *
 * A snapshot freezes the file a disk was written to, and a new overlay in STATE/vms/NAME/layers/ takes what is written from then on. The
 * launch plan and its digest know nothing of it: an entry here says what stands in the place of the file that the plan names, and of all
 * that the plan puts below that file. A disk without an entry is as the plan says.
 *
 * An entry goes by the plan's path, not by the disk's place: when an operator moves disks about in the spec, each keeps its data, and when
 * one names another file for a disk, that file is what the guest gets. The entry of a path that no disk has any more is kept, since with it
 * would go the only knowledge of where that disk's data is. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "lib/base/util.h"
#include "proto/snapshot.h"

#define FILE_DISKS "disks.json"
#define FOLDER_LAYERS "layers"

enum {
    DISKS_SCHEMA = 1,
    LAYERS_MAX = 32, /* files of one disk: each costs a look at every read, and QEMU a descriptor */
    DISKS_KEPT_MAX = 256,
};

struct disk_layers {
    char *plan_path;               /* whose place they take */
    struct snapshot_layer *layers; /* nearest first: [0] is written, unless the disk is read-only; at least one */
    size_t n_layers;
};

struct disks {
    uint64_t schema;
    struct disk_layers *disks;
    size_t n_disks;
};
extern const struct record_type disks_type;

/* Refuses what could be two writers of one file, or a raw image above another one. */
int disks_from_json(const json_t *json, struct disks *ret_disks, struct err *err);
void disks_clear(struct disks *disks);
#define auto_disks auto_cleanup(disks_clear)

/* The entry of this path, or NULL. */
struct disk_layers *disks_find(const struct disks *disks, const char *plan_path);
int disks_copy(const struct disks *from, struct disks *ret_disks);
/* Copies the layers into the entry of this path, which is made if there is none. On failure `disks` may be cleared, and is as it was. */
int disks_set(struct disks *disks, const char *plan_path, const struct snapshot_layer *layers, size_t n_layers);

/* Forgets the entry of this path, when there is one: the disk is as the plan says again. True when there was. */
bool disks_drop(struct disks *disks, const char *plan_path);

int layers_copy(const struct snapshot_layer *from, size_t n, struct snapshot_layer **ret_layers);
void layers_free(struct snapshot_layer *layers, size_t n);
