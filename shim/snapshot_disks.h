/* The disks' part of a snapshot, before the guest stands still and while it does (shim/layers.h has the order). For snapshot.c only. */
#pragma once

#include "shim/snapshot_job.h"

/* Makes overlays and hands them to QEMU; snapshot_disks_ready() or, with job->err set, snapshot_disks_failed() follows, maybe at once. */
void snapshot_disks_prepare(struct snapshot_job *job);
/* The arguments of the one transaction; NULL: there is nothing to freeze. */
json_t *snapshot_disks_transaction(struct snapshot_job *job);
/* The transaction was answered well: from here on nothing of it is undone. */
void snapshot_disks_frozen(struct snapshot_job *job);
/* The guest runs again: QEMU is rid of what it could write to a frozen file by. */
void snapshot_disks_released(struct snapshot_job *job);
/* Undoes what can be, when the transaction hasn't been sent or was refused. */
void snapshot_disks_undo(struct snapshot_job *job);
/* Gives the frozen files names in the snapshot's folder, and the record its disks. Blocks. */
int snapshot_disks_link(struct snapshot_job *job, struct err *err);
void snapshot_disks_clear(struct snapshot_job *job);

/* snapshot.c */
void snapshot_disks_ready(struct snapshot_job *job);
void snapshot_disks_failed(struct snapshot_job *job);
