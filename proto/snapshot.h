/* STATE/snapshots/VM/SNAPSHOT/: a guest as it was at one moment. The folder is written as .SNAPSHOT.tmp, all its files are fsynced, and it
 * gets its name last: a folder of this name is whole. holdfast-snapshot(7) describes it for people.
 *
 *   snapshot.json   the record below
 *   device.state    QEMU's migration stream without RAM
 *   memory.raw      page N of the guest's RAM at offset N * page size; the file is as long as the RAM
 *   memory.index    which of them are present, and their sums: memory_image.h
 *   working-set     which of them a restored guest needs first: memory_image.h; learned later, may be absent
 *   disks/          the frozen disk files, hard links where the file system has them */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "lib/base/util.h"

#define FOLDER_SNAPSHOTS "snapshots"
#define FILE_SNAPSHOT "snapshot.json"
#define FILE_DEVICE_STATE "device.state"
#define FILE_MEMORY "memory.raw"
#define FILE_MEMORY_INDEX "memory.index"
#define FILE_WORKING_SET "working-set"
#define FOLDER_DISKS "disks"

enum { SNAPSHOT_SCHEMA = 1 };

/* What a device state was saved from, and must be loaded into: lib/qemu/hardware.h makes and compares it. */
struct hardware {
    char *machine; /* "pc-q35-7.2" */
    char *accel;   /* "kvm", "tcg" */
    char *cpu;     /* as given to QEMU, with its features: "host", "Nehalem-v1" */
    uint64_t cpus;
    uint64_t memory;    /* bytes */
    char **devices;     /* "virtio-blk-pci@0x10.0", without an address "pvpanic"; in the order of the argv; NULL: none */
    char *qemu_version; /* "7.2.22" */
};
extern const struct record_type hardware_type;

struct snapshot_layer {
    char *path;   /* absolute; a file in the snapshot's own disks/ or somebody's file */
    char *format; /* "qcow2", "raw" */
};

struct snapshot_disk {
    char *node; /* "disk0" */
    bool readonly;
    struct snapshot_layer *layers; /* nearest first: [0] is what the guest wrote to and is frozen now; at least one */
    size_t n_layers;
    uint64_t size; /* as the guest sees it, bytes */
};

struct snapshot {
    uint64_t schema;
    char *name, *vm;
    char *id;                      /* SNAPSHOT_ID_LEN of lower-case hex, random: a snapshot made anew under an old name is another */
    uint64_t created, incarnation; /* real time, microseconds; of the VM */
    bool live;                     /* the guest ran on while its memory was copied */
    uint64_t pause_us;             /* how long it stood still */
    uint64_t ram_size, page_size, present_pages;
    uint64_t state_size; /* of device.state */
    char *state_sum;     /* of device.state: stream_sum_text() */
    struct hardware hardware;
    struct snapshot_disk *disks;
    size_t n_disks;
    char *spec; /* the VM's native spec, JSON text of an object, so that a new VM can be made of it; NULL: not known. In the file it is that
                   * object itself */
    char *digest; /* plan_digest() of the plan it ran by; NULL: not known */
};
extern const struct record_type snapshot_type;

/* Checks schema, names, id, sizes, layers. Whether the files fit the record is not looked at here. */
int snapshot_from_json(const json_t *json, struct snapshot *ret_snapshot, struct err *err);
/* -EINVAL when `spec` isn't the text of an object, or when snapshot_from_json() would refuse what came out. */
int snapshot_to_json(const struct snapshot *snapshot, json_t **ret_json);
void snapshot_clear(struct snapshot *snapshot);
#define auto_snapshot auto_cleanup(snapshot_clear)

void hardware_clear(struct hardware *hardware);
#define auto_hardware auto_cleanup(hardware_clear)
