/* STATE/allocations.json. Schema 1 was once "cids" alone, {VM: context id}: a manager of that time reads what it knows of this, and a file of
 * that time is read here. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/map.h"
#include "lib/spec/claims.h"

struct holding {
    struct claims given; /* cid, macs ("": none), ports */
    struct claims held;
    bool holds;  /* `held` counts as long as it is active */
    bool active; /* runs or is to run, as far as is known */
    bool noted;  /* somebody has said so */
};

void holding_free(struct holding *h);
DEFINE_CLEANUP(struct holding *, holding, holding_free)
#define auto_holding auto_cleanup(holding_cleanup)

/* The holding of a VM, made if there is none. NULL: out of memory. */
struct holding *holdings_get(struct map *vms, const char *name);
void holdings_free(struct map *vms);

/* Adds to `vms`. One that doesn't parse is set aside, and *ret_aside names it: `vms` is empty then. */
int allocations_file_read(int state_fd, struct map *vms, char **ret_aside, struct err *err);

int allocations_file_format(const struct map *vms, char **ret_text, size_t *ret_len);
int allocations_file_write(int state_fd, const char *text, size_t len);
