/* The PCI devices of a host as sysfs shows them, below a root (linux/Documentation/ABI/testing/sysfs-bus-pci). */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/parse.h"
#include "lib/base/strv.h"

enum { PCI_DRIVER_MAX = 64 }; /* with its NUL; longer than the kernel's longest */

#define PCI_VFIO_DRIVER "vfio-pci"

struct pci_device {
    char address[PCI_TEXT_MAX];
    uint32_t class; /* as sysfs has it: 0xBBSSPP, base class, sub-class, programming interface */
    uint32_t vendor;
    char driver[PCI_DRIVER_MAX]; /* "": none */
    int64_t iommu_group;         /* -1: none */
};

/* -ENOENT with a text: there is no such device; -EINVAL: what sysfs says of it isn't understood. */
int pci_device_read(const char *root, const char *address, struct pci_device *ret_device, struct err *err);

/* The devices of an IOMMU group, in the order of their addresses. */
int pci_group_read(const char *root, int64_t group, struct strv *ret_addresses, struct err *err);

/* Whether such a device may be given to a guest by itself: graphics, accelerators and the switches between them. What may hold the host's own
 * disks and networks may not. */
bool pci_may_be_passed(const struct pci_device *device);
/* Functions of one card, as a GPU and its sound, which go together. */
bool pci_same_slot(const char *address, const char *other);
bool pci_is_bridge(const struct pci_device *device);
