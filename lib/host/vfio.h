/* PCI devices taken from their driver for a guest and given back (linux/Documentation/driver-api/vfio.rst). All of it may block for as long as
 * a driver takes: for a thread of its own, never for a loop. */
#pragma once

#include <sys/types.h>

#include "lib/host/pci.h"

/* Whom a device belongs to, for messages: the name of another VM that has it, or NULL. */
struct vfio_owners {
    const char *(*find)(void *arg, const char *address);
    void *arg;
};

/* Whether the device can be given to a VM that gets all of `gpus` (NULL-ended): it is there, is of a class that may be passed, and nobody else
 * holds a part of its IOMMU group: the rest of that are bridges, have no driver, or vfio-pci. 0 and what it is; -ENOENT, -EPERM, -EBUSY… with
 * an error that names the device at fault and its driver. */
int vfio_check(const char *root, const char *address, char *const *gpus, const struct vfio_owners *owners, struct pci_device *ret_device,
               struct err *err);

/* Gives the device to vfio-pci. After a failure vfio_restore() puts things back. */
int vfio_bind(const char *root, const char *address, struct err *err);

/* Gives the device back to `driver`, "" for none, whatever vfio_bind() had come to. A device that is gone, or that somebody gave to a third
 * driver since, is left as it is. */
int vfio_restore(const char *root, const char *address, const char *driver, struct err *err);

/* /dev/vfio/GROUP, which QEMU opens by itself where it knows no iommufd: belongs to that user, and to nobody when it is taken back. */
int vfio_group_give(const char *root, int64_t group, uid_t uid, gid_t gid, struct err *err);
void vfio_group_take_back(const char *root, int64_t group);
