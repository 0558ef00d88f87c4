/* Taking a snapshot of the VM (DESIGN §8): prepare everything while the guest runs, stop it for some milliseconds in which disks are frozen and
 * the device state is saved, let it run, and copy its memory behind its back. Whatever fails, the guest runs on, and no half snapshot
 * is left. The format is proto/snapshot.h's. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/base/err.h"

struct vm;

struct snapshot_request {
    const char *folder; /* absolute, where it will be */
    const char *name;
    const char *spec; /* JSON text, may be NULL */
    bool live;        /* the guest runs while its memory is copied */
};

/* Told while it goes on, and how it ended: `record` is snapshot.json, or NULL and `err` says why. */
struct snapshot_watcher {
    void (*progress)(void *arg, const char *phase, uint64_t done, uint64_t total); /* bytes; total 0: not known */
    void (*ended)(void *arg, json_t *record, const struct err *err);               /* once; `arg` isn't used after it */
    void *arg;
};

/* -EBUSY "busy": one is under way; -ENOTSUP with the reason and the remedy; else it has begun, and the watcher is told of its end. */
int snapshot_begin(struct vm *vm, const struct snapshot_request *request, const struct snapshot_watcher *watcher, struct err *err);
/* Nobody listens any more; the snapshot goes on. */
void snapshot_unwatch(struct vm *vm);
/* Calls it off; the watcher is told. Fine when there is none. */
void snapshot_cancel(struct vm *vm);
/* QEMU is gone, or we are: ends it where it stands. */
void snapshot_abort(struct vm *vm);

/* The guest stands still for a snapshot: that is no pause of its operator's. */
bool snapshot_holds(const struct vm *vm);
/* Or is about to: QEMU has been asked. */
bool snapshot_will_hold(const struct vm *vm);
/* The VM is to end. One whose guest doesn't run on yet is called off, since it would be let run, to shut down, or stand still meanwhile. */
void snapshot_vm_stops(struct vm *vm);
/* QMP's MIGRATION event. */
void snapshot_migration(struct vm *vm, const char *status);

/* What a dead shim's snapshot left: the guest runs on and the half snapshot is removed. True: the guest is let run, which will be told. */
bool snapshot_adopt(struct vm *vm);
