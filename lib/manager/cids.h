/* vsock context ids of the VMs whose spec says "auto": given once, kept in STATE/allocations.json, and stable when other VMs come and go.
 * Safe on any thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"

struct cids;

enum { CID_FIRST = 3 }; /* 0 to 2 are the hypervisor's, the loopback's and the host's: vsock(7) */

/* Reads allocations.json; one that doesn't parse is set aside and *ret_aside (malloc'ed) names it. */
int cids_new(int state_fd, struct cids **ret_cids, char **ret_aside, struct err *err);
void cids_free(struct cids *c);

/* The VM's id, given (and written durably) now if it has none. -ENOSPC, -ENOMEM, or why it can't be written. */
int cids_get(struct cids *c, const char *name, uint32_t *ret_cid);
/* The id is free for others. -errno of the write. */
int cids_drop(struct cids *c, const char *name);
