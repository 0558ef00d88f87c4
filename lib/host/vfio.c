#include "lib/host/vfio.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"

enum {
    SETTLE_MS = 10 * 1000, /* for the device to be where a write has sent it; the write itself may have taken minutes */
    LOOK_EVERY_MS = 5,
    OVERRIDE_MAX = 4096,
    NODE_MODE = 0600,
};

#define CLEAR_OVERRIDE "\n"

/* ---- sysfs ---- */

static int write_attribute(const char *root, const char *path, const char *text)
{
    auto_free char *full = NULL;
    auto_fd int fd = -1;

    if (str_format(&full, "%s%s", root ? root : "", path) < 0)
        return -ENOMEM;
    /* Truncated and closed as a shell does it: a made-up tree is of plain files. */
    fd = open(full, O_WRONLY | O_TRUNC | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = write(fd, text, strlen(text)); /* in one piece: each write to sysfs is a command */
    return n < 0 ? -errno : (size_t)n == strlen(text) ? 0 : -EIO;
}

__attribute__((format(printf, 3, 4))) static int write_attributef(const char *root, const char *text, const char *fmt, ...)
{
    auto_free char *path = NULL;
    va_list args;

    va_start(args, fmt);
    int n = vasprintf(&path, fmt, args);
    va_end(args);
    if (n < 0) {
        path = NULL;
        return -ENOMEM;
    }
    return write_attribute(root, path, text);
}

static int set_override(const char *root, const char *address, const char *driver)
{
    return write_attributef(root, driver, "/sys/bus/pci/devices/%s/driver_override", address);
}

/* Whether the device's override is vfio-pci: that is ours to clear, another is somebody else's. */
static bool override_is_vfio(const char *root, const char *address)
{
    auto_free char *path = NULL, *text = NULL;
    size_t len;

    if (str_format(&path, "%s/sys/bus/pci/devices/%s/driver_override", root ? root : "", address) < 0 ||
        file_read(AT_FDCWD, path, OVERRIDE_MAX, &text, &len) < 0)
        return false;
    text[strcspn(text, "\n")] = '\0';
    return streq(text, PCI_VFIO_DRIVER);
}

/* Until the device has this driver, "" for none. -ETIMEDOUT; -ENOENT when the device goes. */
static int await_driver(const char *root, const char *address, const char *driver)
{
    uint64_t until = clock_mono_us() + (uint64_t)SETTLE_MS * 1000;
    struct pci_device device;

    for (;;) {
        int r = pci_device_read(root, address, &device, NULL);
        if (r < 0 || streq(device.driver, driver))
            return r;
        if (clock_mono_us() > until)
            return -ETIMEDOUT;
        (void)poll(NULL, 0, LOOK_EVERY_MS);
    }
}

static int unbind(const char *root, const char *address, const char *driver)
{
    int r = write_attributef(root, address, "/sys/bus/pci/drivers/%s/unbind", driver);

    return r < 0 ? r : await_driver(root, address, "");
}

/* ---- may it be given? ---- */

static bool is_given(char *const *gpus, const char *address)
{
    for (; gpus && *gpus; gpus++)
        if (streq(*gpus, address))
            return true;
    return false;
}

static int check_class(const char *root, const struct pci_device *device, char *const *gpus, struct err *err)
{
    struct pci_device other;

    if (pci_may_be_passed(device))
        return 0;
    for (; gpus && *gpus; gpus++) /* the sound of a card whose GPU is given too */
        if (!streq(*gpus, device->address) && pci_same_slot(*gpus, device->address) && pci_device_read(root, *gpus, &other, NULL) >= 0 &&
            pci_may_be_passed(&other))
            return 0;
    return err_set(err, EPERM, "wrong-device",
                   "PCI device %s (class %06" PRIx32
                   ", driver %s) is no GPU or accelerator, nor part of a card with one that is given too: "
                   "such devices are not passed to VMs",
                   device->address, device->class, *device->driver ? device->driver : "none");
}

static int check_neighbour(const char *root, const struct pci_device *device, const char *address, const struct vfio_owners *owners,
                           struct err *err)
{
    const char *owner = owners ? owners->find(owners->arg, address) : NULL;
    struct pci_device other;

    if (owner)
        return err_set(err, EBUSY, "group-shared",
                       "PCI device %s shares IOMMU group %" PRId64 " with %s, which VM %s has: one VM must have the whole group",
                       device->address, device->iommu_group, address, owner);
    int r = pci_device_read(root, address, &other, err);
    if (r == -ENOENT) /* it went while we looked */
        return 0;
    if (r < 0 || pci_is_bridge(&other) || !*other.driver || streq(other.driver, PCI_VFIO_DRIVER))
        return r;
    return err_set(err, EBUSY, "group-shared",
                   "PCI device %s shares IOMMU group %" PRId64 " with %s, which driver %s has: give that to the VM too, or unbind it",
                   device->address, device->iommu_group, address, other.driver);
}

int vfio_check(const char *root, const char *address, char *const *gpus, const struct vfio_owners *owners, struct pci_device *ret_device,
               struct err *err)
{
    auto_strv struct strv group = { 0 };
    struct pci_device device;

    int r = pci_device_read(root, address, &device, err);
    if (r >= 0)
        r = check_class(root, &device, gpus, err);
    if (r < 0)
        return r;
    if (device.iommu_group < 0)
        return err_set(err, ENODEV, "no-iommu",
                       "PCI device %s is in no IOMMU group: turn the IOMMU on in the firmware's setup and on the kernel's command line "
                       "(intel_iommu=on)",
                       address);
    r = pci_group_read(root, device.iommu_group, &group, err);
    for (size_t i = 0; i < group.n && r >= 0; i++)
        if (!is_given(gpus, group.items[i]))
            r = check_neighbour(root, &device, group.items[i], owners, err);
    if (r < 0)
        return r;
    *ret_device = device;
    return 0;
}

/* ---- there and back ---- */

static int check_module(const char *root, struct err *err)
{
    auto_free char *path = NULL;

    if (str_format(&path, "%s/sys/bus/pci/drivers/" PCI_VFIO_DRIVER, root ? root : "") < 0)
        return -ENOMEM;
    if (access(path, F_OK) < 0)
        return err_set(err, ENODEV, "no-vfio", "driver " PCI_VFIO_DRIVER " is not loaded on this host: modprobe " PCI_VFIO_DRIVER);
    return 0;
}

static int failed(struct err *err, int r, const struct pci_device *device)
{
    if (r == -ENOENT)
        return err_set(err, ENODEV, "no-device", "PCI device %s went away while it was given to " PCI_VFIO_DRIVER, device->address);
    if (r == -EACCES || r == -EPERM)
        return err_set_errno(err, -r, "no-privileges", "can't change the driver of PCI device %s, which needs root", device->address);
    return err_set_errno(err, -r, "driver-busy", "PCI device %s can't be given to " PCI_VFIO_DRIVER, device->address);
}

int vfio_bind(const char *root, const char *address, struct err *err)
{
    struct pci_device device;

    int r = pci_device_read(root, address, &device, err);
    if (r < 0 || streq(device.driver, PCI_VFIO_DRIVER))
        return r;
    r = check_module(root, err);
    if (r < 0)
        return r;
    r = set_override(root, address, PCI_VFIO_DRIVER);
    FAILPOINT("vfio.after-override");
    if (r < 0)
        return failed(err, r, &device);
    if (*device.driver) {
        r = unbind(root, address, device.driver);
        if (r < 0 && r != -ENOENT && r != -EACCES && r != -EPERM)
            return err_set_errno(err, -r, "driver-busy", "driver %s doesn't let go of PCI device %s, so end what uses it", device.driver,
                                 address);
        if (r < 0)
            return failed(err, r, &device);
    }
    FAILPOINT("vfio.after-unbind");
    r = write_attribute(root, "/sys/bus/pci/drivers_probe", address);
    if (r >= 0)
        r = await_driver(root, address, PCI_VFIO_DRIVER);
    FAILPOINT("vfio.after-bind");
    return r < 0 ? failed(err, r, &device) : 0;
}

static int give_back(const char *root, const char *address, const char *driver)
{
    int r = write_attributef(root, address, "/sys/bus/pci/drivers/%s/bind", driver);

    if (r == -ENOENT) /* its module was unloaded meanwhile: whoever else wants it may have it */
        return write_attribute(root, "/sys/bus/pci/drivers_probe", address);
    if (r == -EBUSY || r == -ENODEV) { /* it was quicker, by a probe of somebody else's */
        struct pci_device device;
        if (pci_device_read(root, address, &device, NULL) >= 0 && streq(device.driver, driver))
            return 0;
    }
    return r < 0 ? r : await_driver(root, address, driver);
}

int vfio_restore(const char *root, const char *address, const char *driver, struct err *err)
{
    struct pci_device device;
    int r = pci_device_read(root, address, &device, err);

    if (r == -ENOENT) {
        if (err)
            *err = ERR_INIT;
        return 0;
    }
    if (r < 0 || streq(driver, PCI_VFIO_DRIVER))
        return r;
    if (override_is_vfio(root, address))
        r = set_override(root, address, CLEAR_OVERRIDE);
    if (r >= 0 && streq(device.driver, PCI_VFIO_DRIVER)) {
        r = unbind(root, address, PCI_VFIO_DRIVER);
        device.driver[0] = '\0';
    }
    FAILPOINT("vfio.restore-after-unbind");
    if (r >= 0 && !*device.driver && *driver)
        r = give_back(root, address, driver);
    if (r < 0)
        return err_set_errno(err, -r, "not-restored", "PCI device %s can't be given back to driver %s", address, *driver ? driver : "none");
    return 0;
}

/* ---- the group's node ---- */

static int set_node(const char *root, int64_t group, uid_t uid, gid_t gid)
{
    auto_free char *path = NULL;

    if (str_format(&path, "%s/dev/vfio/%" PRId64, root ? root : "", group) < 0)
        return -ENOMEM;
    return chown(path, uid, gid) < 0 || chmod(path, NODE_MODE) < 0 ? -errno : 0;
}

int vfio_group_give(const char *root, int64_t group, uid_t uid, gid_t gid, struct err *err)
{
    int r = set_node(root, group, uid, gid);

    return r < 0 ? err_set_errno(err, -r, "no-access", "can't give /dev/vfio/%" PRId64 " to QEMU's user", group) : 0;
}

void vfio_group_take_back(const char *root, int64_t group)
{
    (void)set_node(root, group, geteuid(), getegid()); /* as a rule it went with the driver */
}
