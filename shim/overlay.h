/* Makes an empty qcow2 image on top of another one: what `qemu-img create -b` makes, without the process, since restores and snapshots wait
 * for it. Format: QEMU docs/interop/qcow2.txt, version 3. */
#pragma once

#include <stdint.h>

#include "lib/base/err.h"
#include "proto/snapshot.h"

/* Makes file `name` in folder `folder_fd`, which must not exist, as an overlay of `size` bytes (a multiple of 512, as the guest sees it) on
 * `base`; to sync the file and the folder is the caller's. Returns its descriptor, open for reading and writing. On failure nothing
 * is left. -EEXIST: there is such a file. */
int overlay_create(int folder_fd, const char *name, const struct snapshot_layer *base, uint64_t size, struct err *err);
