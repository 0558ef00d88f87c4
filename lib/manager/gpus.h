/* The devices of this host that VMs have, taken from their drivers for them. Remembered in STATE/gpus.json, each before it is touched, so that a
 * manager killed at any instruction has a successor that gives them back. Safe on any thread; what may block says so. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "lib/base/err.h"
#include "lib/base/strv.h"

struct gpus;

/* What one QEMU is to get. */
struct gpu_wish {
    char **devices; /* addresses as parse_pci_address() makes them, NULL-ended; NULL: none */
    bool by_group;  /* QEMU opens /dev/vfio/GROUP itself, as this user: */
    bool has_user;
    uid_t uid;
    gid_t gid;
};
void gpu_wish_clear(struct gpu_wish *wish);

/* Reads gpus.json; one that doesn't parse is set aside and *ret_aside (malloc'ed) names it. `root` as in lib/host, copied. */
int gpus_new(int state_fd, const char *root, struct gpus **ret_gpus, char **ret_aside, struct err *err);
void gpus_free(struct gpus *g);

/* Makes the VM have just these devices, all bound to vfio-pci, or none: after a failure all that it had are put back. -EBUSY: another VM has one of
 * them, or its driver doesn't let go; -EAGAIN: one is on its way to or from somewhere. Blocks for as long as drivers do. */
int gpus_take(struct gpus *g, const char *vm, const struct gpu_wish *wish, struct err *err);

/* Gives all that the VM has back to the drivers they had. Only while no QEMU of it lives. What fails is kept on record, and not tried again before
 * gpus_retry(). Blocks likewise. */
int gpus_give_back(struct gpus *g, const char *vm, struct err *err);
void gpus_retry(struct gpus *g, const char *vm);

/* Whether it has devices that are to be given back some time. */
bool gpus_has(struct gpus *g, const char *vm);
/* Names of all that have. */
int gpus_owners(struct gpus *g, struct strv *ret_vms);
/* "driver nvidia has not let go of PCI device 0000:c1:00.0" of what gpus_take() is at; "" when nothing. */
void gpus_pending(struct gpus *g, const char *vm, char *ret_text, size_t size);
