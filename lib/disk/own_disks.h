/* The disks of a VM's own as they are on this host, against what its spec says of them. */
#pragma once

#include "lib/base/err.h"
#include "lib/spec/spec.h"
#include "proto/disks.h"

/* Which file such a disk is written to now: the nearest layer where it has layers, else the file itself. Borrowed from its arguments. */
struct snapshot_layer own_disk_top(const struct disks *record, const char *path, const char *format);

/* A disk is never shrunk: -EINVAL "smaller" with a line for the operator when `now` is more than `wanted`. */
int own_disk_check_size(const char *name, uint64_t now, uint64_t wanted, struct err *err);

/* Reports every persistent disk of the spec that is larger on this host than the spec says, with its place ("/disks/0/size: …"). `state_dir`
 * is the VM's. A disk that isn't there or can't be read is nothing to report: its start says more. The number reported, or -ENOMEM. Blocks. */
int own_disks_check(const struct spec *spec, const char *state_dir, void (*report)(void *arg, const struct err *err), void *arg);
