/* Reading all of a snapshot and comparing it with its sums. Blocks for as long as the disk takes: for a thread of its own. */
#pragma once

#include <stdatomic.h>

#include "lib/base/err.h"
#include "proto/memory_image.h"
#include "proto/snapshot.h"

/* Shared with whoever looks on and may call it off. */
struct verify_progress {
    atomic_bool cancelled;
    atomic_uint_fast64_t done, total; /* bytes */
};

/* device.state, memory.index and every page it names, and the working set when there is one. *ret_pages: pages compared. -EINVAL and the
 * file, with the first page that is wrong, its offset, and how many are; -EIO and the like when it can't be read; -ECANCELED. */
int snapshot_verify(int folder_fd, const struct snapshot *snapshot, struct verify_progress *progress, uint64_t *ret_pages, struct err *err);

/* memory.index; the working set, when there is one (-ENOENT) and it is of this snapshot (-EINVAL). */
int snapshot_read_index(int folder_fd, const struct snapshot *snapshot, bool with_sums, struct memory_index **ret, struct err *err);
int snapshot_read_working_set(int folder_fd, const struct snapshot *snapshot, struct working_set *ret, struct err *err);
