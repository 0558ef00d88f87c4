#include "lib/host/pci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"

enum {
    CLASS_DISPLAY = 0x03, /* base classes of the PCI code and ID assignment specification */
    CLASS_BRIDGE = 0x06,
    CLASS_ACCELERATOR = 0x12,
    CLASS_OTHER_BRIDGE = 0x0680, /* sub-class: NVSwitch is one, and no bridge to a bus */
    ATTRIBUTE_MAX = 64,
};

static int open_device(const char *root, const char *address)
{
    auto_free char *path = NULL;
    int fd;

    if (str_format(&path, "%s/sys/bus/pci/devices/%s", root ? root : "", address) < 0)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a symlink to where the device is */
    return fd < 0 ? -errno : fd;
}

/* "0x030200\n" */
static int read_hex(int dirfd, const char *name, uint32_t *ret)
{
    auto_free char *text = NULL;
    size_t len;
    uint32_t value = 0;

    int r = file_read(dirfd, name, ATTRIBUTE_MAX, &text, &len);
    if (r < 0)
        return r;
    const char *p = has_prefix(text, "0x") ? text + 2 : text;
    size_t n = strspn(p, "0123456789abcdefABCDEF");
    if (n == 0 || n > 8 || (p[n] && p[n] != '\n'))
        return -EINVAL;
    for (; n > 0; n--, p++) {
        char c = (char)(*p | 0x20);
        value = value << 4 | (uint32_t)(*p <= '9' ? *p - '0' : c - 'a' + 10);
    }
    *ret = value;
    return 0;
}

/* The last part of what a symlink points to; "" where there is none. */
static int read_link_name(int dirfd, const char *name, char *ret, size_t size)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(dirfd, name, target, sizeof(target) - 1);

    ret[0] = '\0';
    if (n < 0)
        return errno == ENOENT ? 0 : -errno;
    target[n] = '\0';
    const char *slash = strrchr(target, '/'), *last = slash ? slash + 1 : target;
    if (!*last || strlen(last) >= size)
        return -EINVAL;
    memcpy(ret, last, strlen(last) + 1);
    return 0;
}

static int read_attributes(int fd, struct pci_device *device)
{
    char group[24];
    uint64_t number;

    int r = read_hex(fd, "class", &device->class);
    if (r >= 0)
        r = read_hex(fd, "vendor", &device->vendor);
    if (r >= 0)
        r = read_link_name(fd, "driver", device->driver, sizeof(device->driver));
    if (r >= 0)
        r = read_link_name(fd, "iommu_group", group, sizeof(group));
    if (r < 0)
        return r;
    device->iommu_group = -1;
    if (!*group)
        return 0;
    r = parse_u64(group, 0, INT32_MAX, &number);
    if (r >= 0)
        device->iommu_group = (int64_t)number;
    return r;
}

int pci_device_read(const char *root, const char *address, struct pci_device *ret_device, struct err *err)
{
    struct pci_device device = { 0 };
    auto_fd int fd = open_device(root, address);

    if (fd == -ENOENT || fd == -ENOTDIR)
        return err_set(err, ENOENT, "no-device", "there is no PCI device %s on this host; lspci -D lists those there are", address);
    int r = fd < 0 ? fd : parse_pci_address(address, device.address);
    if (r >= 0)
        r = read_attributes(fd, &device);
    if (r < 0)
        return err_set_errno(err, -r, "no-device", "can't read what sysfs says of PCI device %s", address);
    *ret_device = device;
    return 0;
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int list(const char *path, struct strv *addresses)
{
    char address[PCI_TEXT_MAX];
    const struct dirent *entry;
    DIR *dir = opendir(path);

    if (!dir)
        return -errno;
    while ((errno = 0, entry = readdir(dir)))
        if (parse_pci_address(entry->d_name, address) >= 0)
            strv_push(addresses, address);
    int r = addresses->failed ? -ENOMEM : -errno;
    closedir(dir);
    return r;
}

int pci_group_read(const char *root, int64_t group, struct strv *ret_addresses, struct err *err)
{
    auto_free char *path = NULL;
    auto_strv struct strv addresses = { 0 };

    if (str_format(&path, "%s/sys/kernel/iommu_groups/%" PRId64 "/devices", root ? root : "", group) < 0)
        return -ENOMEM;
    int r = list(path, &addresses);
    if (r < 0)
        return err_set_errno(err, -r, "no-device", "can't list IOMMU group %" PRId64, group);
    if (addresses.n > 0)
        qsort(addresses.items, addresses.n, sizeof(*addresses.items), compare);
    *ret_addresses = addresses;
    addresses = (struct strv){ 0 };
    return 0;
}

bool pci_is_bridge(const struct pci_device *device)
{
    return device->class >> 16 == CLASS_BRIDGE && device->class >> 8 != CLASS_OTHER_BRIDGE;
}

bool pci_may_be_passed(const struct pci_device *device)
{
    uint32_t base = device->class >> 16;

    return base == CLASS_DISPLAY || base == CLASS_ACCELERATOR || device->class >> 8 == CLASS_OTHER_BRIDGE;
}

bool pci_same_slot(const char *address, const char *other)
{
    const size_t slot = PCI_TEXT_MAX - sizeof(".0");

    return strncmp(address, other, slot) == 0;
}
