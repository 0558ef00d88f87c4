/* The store of snapshots, STATE/snapshots/VM/SNAPSHOT/ (proto/snapshot.h): what is there, deleting, sweeping. Only the disk says what there
 * is; nothing is remembered. No loop: safe on any thread, and everything here may block. */
#pragma once

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "proto/snapshot.h"

enum { SNAPSHOT_PATH_MAX = 2 * NAME_MAX_LEN + 4, SNAPSHOT_NAME_MAX = 32 };

struct snapshot_info {
    char *vm, *name;       /* by its folder */
    struct snapshot found; /* zeroed when it can't be read */
    uint64_t disk_bytes;   /* what its files take, frozen disks included */
    bool working_set;
    char *damaged; /* why it can't be used, NULL: it can */
};
void snapshot_info_clear(struct snapshot_info *info);
#define auto_snapshot_info auto_cleanup(snapshot_info_clear)

struct snapshot_list {
    struct snapshot_info *items;
    size_t n;
};
void snapshot_list_clear(struct snapshot_list *list);
#define auto_snapshot_list auto_cleanup(snapshot_list_clear)

/* The folder of one. -ENOENT: no such snapshot, also when a name is none. */
int snapshots_open(int store_fd, const char *vm, const char *name);

/* One of them; whether its files are as long as its record says is looked at, what is in them isn't. -ENOENT, -ENOMEM. */
int snapshots_read(int store_fd, const char *vm, const char *name, struct snapshot_info *ret_info);

/* Those of one VM (NULL: of all), by VM and then by when they were made. What isn't a snapshot's folder is passed over. */
int snapshots_list(int store_fd, const char *vm, struct snapshot_list *ret_list);

/* One rename makes it gone; the removal may take its time, and be cut off. A folder of a VM that holds nothing any more goes, too.
 * -EBUSY: somebody needs pages of it. */
int snapshots_delete(int store_fd, const char *vm, const char *name);

/* Makes the VM's folder, for a snapshot to be written in. */
int snapshots_make_folder(int store_fd, const char *vm);
/* Removes it when nothing is in it. */
void snapshots_drop_folder(int store_fd, const char *vm);

/* Removes what operations that died have left: deleted snapshots, and half-written ones of VMs of which no shim lives that may still be
 * at it. Returns how many things were removed. */
unsigned snapshots_sweep(int store_fd, int run_vms_fd);

/* 1 when the frozen disks of some snapshot are files whose paths begin with `prefix`, or that can't be told, since one doesn't parse;
 * else 0; -errno. */
int snapshots_need(int store_fd, const char *prefix);

/* The Snapshot of io.holdfast.Manager; `in_use_by` consumed. NULL: out of memory. */
json_t *snapshot_to_wire_consume(const struct snapshot_info *info, json_t *in_use_by);

/* "20261125-191500", the local time. */
void snapshots_default_name(char buf[SNAPSHOT_NAME_MAX]);
