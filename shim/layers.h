/* Which files each disk of a VM consists of, once it was snapshotted or restored (proto/disks.h).
 *
 *   layers.c          the record; the folder of overlays and what may be removed from it
 *   layers_argv.c     the plan's argv with the layers in the place of the plan's files
 *   layers_freeze.c   a snapshot: an overlay on every disk that is written, and what QEMU is told of it
 *   layers_keep.c     a snapshot: the frozen files' names in its folder; a restore: overlays on them
 *
 * Nothing here knows the VM, its loop or its monitor. What says "blocks" looks at disk files, which may be on a file server that is dead:
 * not for the loop's thread. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "lib/base/pidref.h"
#include "lib/base/strv.h"
#include "proto/disks.h"
#include "proto/plan.h"
#include "proto/snapshot.h"

/* ---- the record ---- */

/* STATE/vms/NAME/disks.json; a missing one has no entries. One that can't be read or understood is an error, with words for the operator,
 * and the VM must not start: any guess may be a disk of last month. It stays where it is. */
int layers_load(int state_fd, const struct plan *plan, struct disks *ret_disks, struct err *err);
/* Durable when it returns. */
int layers_store(int state_fd, const struct disks *disks, struct err *err);

/* A line on entries that no disk of the plan has any more, or NULL (also when out of memory): told at a start, since the operator may have
 * renamed a file whose newest data is in its layers. malloc'ed. */
char *layers_unused(const struct plan *plan, const struct disks *disks);

/* Removes from STATE/vms/NAME/layers/ what the record doesn't name and a crash or an earlier state of the VM left. Only while no QEMU of
 * the VM lives, and only with a record that was loaded. A file without any write permission is kept: a snapshot needs it that could have
 * no name of its own for it. */
int layers_sweep(int state_fd, const struct disks *disks);

/* The next free number in the folder of overlays of disk `index`, and that folder, made if need be. Returns its descriptor. */
int layers_folder(int state_fd, size_t index, uint64_t *ret_number);

/* ---- launching ---- */

struct layered {
    struct strv argv;
    struct plan_file *files; /* what it names by number */
    size_t n_files;
};
void layered_clear(struct layered *l);
#define auto_layered auto_cleanup(layered_clear)

/* The plan's argv and files with each disk's layers where `disks` has an entry for it: the first takes the place of the plan's file, with
 * the same options, the same node and thus the same device; the others are below it, read-only. Descriptors from PLAN_FD_LAYER on. Without
 * an entry that fits, both are the plan's. Pure. */
int layers_apply(const struct plan *plan, const struct disks *disks, struct layered *ret_layered, struct err *err);

/* ---- freezing ----
 *
 * In this order; `q` is a command to QEMU:
 *
 *    q query-block, q query-fdsets
 *    layers_freeze_prepare()                         overlays made
 *    for each disk that isn't read-only:
 *        q add-fd {} with overlay_fd                 its reply names the set: layers_fdset()
 *        q blockdev-add layers_overlay_node(disk, set)
 *        q add-fd layers_frozen_fd(disk) with frozen_fd
 *    layers_presync()
 *    layers_store(freeze.record)                     before QEMU can write to an overlay
 *    q stop
 *    q transaction layers_transaction(freeze)        one for all disks: none or all; skipped when there is none
 *    q cont
 *    layers_unlock()
 *    for each disk that isn't read-only:
 *        q remove-fd layers_written_fd(disk)         once the guest runs
 *    layers_link()
 *    freeze_clear()                                  before the next snapshot
 *
 * With frozen_fd QEMU reopens what was frozen read-only, and with remove-fd it loses the only descriptor it could write there by. QEMU's lock
 * of the file (an OFD lock: fcntl(2)) lives as long as that descriptor, which isn't closed while the guest stands still; and while the lock
 * is there no other QEMU, a clone's, can open the frozen file. So we take it off ourselves, by a copy of the descriptor.
 *
 * The record is right whether or not the transaction happened, since an overlay that nobody wrote to reads as what is below it; so a crash
 * at any point loses nothing, and after a transaction that wasn't answered nothing is undone. After one that was answered with an error,
 * or before:
 *
 *    for each disk: q blockdev-del {"node-name": overlay}, q remove-fd {"fdset-id": set}
 *    layers_store(the record as it was)
 *    layers_freeze_undo()                            only if all that was answered; else the next sweep finds the files */

struct freeze_input {
    int state_fd;
    const struct plan *plan;
    const struct disks *disks;
    const json_t *blocks;      /* what query-block returned */
    const json_t *fdsets;      /* what query-fdsets returned */
    const struct pidref *qemu; /* whose descriptors tell which file is really written */
};

struct frozen_disk {
    char node[16];                 /* "disk0" */
    bool readonly;                 /* then there is nothing of the overlay and the top */
    bool made;                     /* of files: an image of the VM's own, which it removes when it has another */
    uint64_t size;                 /* as the guest sees it */
    struct snapshot_layer *layers; /* of the disk as it is frozen, nearest first */
    size_t n_layers;
    char *top;        /* the node the device is attached to */
    uint64_t top_set; /* its fdset */
    int top_fd;       /* the member of that set, QEMU's number */
    int written_fd;   /* our copy of that, or -1 */
    int frozen_fd;    /* its file, read-only */
    char overlay[48]; /* node-name of the overlay: "disk0-layer3" */
    char file[48];    /* its name in layers/: "disk0-3.qcow2" */
    int overlay_fd;
};

struct freeze {
    struct frozen_disk *disks;
    size_t n_disks;
    char *folder;        /* STATE/vms/NAME/layers */
    struct disks record; /* with the overlays on top */
};
void freeze_clear(struct freeze *freeze);
#define auto_freeze auto_cleanup(freeze_clear)

/* Blocks. Refuses with words: "too-many-layers" (32 files of a disk, or all descriptors), "stale-disk" when the file that QEMU writes to
 * isn't the one a restart would open, "bad-disk", "no-overlay". On failure no file is left. */
int layers_freeze_prepare(const struct freeze_input *in, struct freeze *ret_freeze, struct err *err);
/* Removes the overlays. 0, or the first failure. */
int layers_freeze_undo(int state_fd, const struct freeze *freeze);

/* Writes out what the host caches of the disks, while the guest runs: the transaction flushes too, and then the guest stands still for it.
 * A failure is left to that flush, whose error QEMU reports. Blocks for as long as the storage needs. */
void layers_presync(const struct freeze *freeze);

/* Takes QEMU's lock off what is frozen, after the transaction. 0 or the first failure, which only keeps others from opening the files. */
int layers_unlock(const struct freeze *freeze);

/* The set that add-fd's reply (what it returned) names, or -EINVAL. */
int layers_fdset(const json_t *returned, uint64_t *ret_set);
/* Arguments of blockdev-add, add-fd, remove-fd and transaction. New references; NULL: out of memory. */
json_t *layers_overlay_node(const struct frozen_disk *disk, uint64_t fdset);
json_t *layers_frozen_fd(const struct frozen_disk *disk);
json_t *layers_written_fd(const struct frozen_disk *disk);
json_t *layers_transaction(const struct freeze *freeze);

/* ---- keeping and restoring ---- */

/* Gives every file of every disk that is written a name in a snapshot's disks/, open as `disks_fd` and synced here, so that no snapshot
 * needs another one's files, or the VM's. A file that can have none there (other file system, block device, no hard links) stays where it
 * is; one of our overlays then loses its write permission, which keeps it from layers_sweep(). Read-only disks are named as they are.
 * `disks_path` is what that folder will be called. Blocks: also syncs the frozen files. */
int layers_link(const struct freeze *freeze, int disks_fd, const char *disks_path, struct snapshot *ret_snapshot, struct err *err);

/* For a VM that is restored or cloned: overlays on the snapshot's disks, in this VM's layers/, where the snapshot's files get names too, so
 * that it can be deleted while the VM lives. `old` is the VM's record, whose other entries are kept. The result is for layers_apply(), and
 * for layers_store() once the guest runs: until then a restart finds the disks as they were, and layers_sweep() removes what was made here.
 * -EINVAL with id "other-disks" when the plan's disks are others than the snapshot's. Blocks. */
int layers_restore(int state_fd, const struct plan *plan, const struct snapshot *snapshot, const struct disks *old, struct disks *ret_disks,
                   struct err *err);
/* What layers_restore() made is on disk when it returns: before layers_store(). Blocks; made for another thread, while QEMU starts. */
int layers_sync(int state_fd, const struct disks *disks, struct err *err);
