/* Passed-through PCI devices. Each sits behind a root port of its own, as on a real board: the guest finds the link and the reset that its driver
 * looks for, and room for large windows. */
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/argv.h"
#include "lib/spec/limits.h"

enum {
    SLOT_GPU = 0x18,
    PCI_FUNCTIONS = 8,
};

_Static_assert(SLOT_GPU + GPUS_MAX / PCI_FUNCTIONS <= 0x1f, "passed-through devices run into the chipset");
_Static_assert(PLAN_FD_IOMMU + GPUS_MAX <= PLAN_FD_VFIO, "IOMMUs run into devices");
_Static_assert(PLAN_FD_VFIO + GPUS_MAX <= PLAN_FD_END, "devices run into layers");

/* How far OVMF makes the 64-bit window for devices, in MiB: what it takes by itself is too small for the memory of today's GPUs. */
#define OVMF_WINDOW "name=opt/ovmf/X-PciMmio64Mb,string=262144"

/* Pinned beside the guest's memory: windows of other devices, which a device may reach as well; libvirt takes as much. */
#define PINNED_BESIDE (UINT64_C(1) << 30)

bool argv_memory_is_private(const struct argv *a) { return a->confidential != CONFIDENTIAL_NONE || spec_n_gpus(a->in->spec) > 0; }

uint64_t argv_memlock(const struct argv *a)
{
    uint64_t n = spec_n_gpus(a->in->spec);

    if (n == 0)
        return 0;
    /* One container for all of a VM's groups counts the memory once; each iommufd counts it for itself. */
    return a->in->spec->memory * (a->confidential == CONFIDENTIAL_NONE ? 1 : n) + PINNED_BESIDE;
}

/* In a confidential guest by iommufd, which alone can map its shared memory as it changes; its files are opened by our child, so that QEMU's user
 * needs no right to them. Otherwise QEMU 7.2 too must do, which opens the group by itself: lib/host/vfio.h gives that to its user. */
static json_t *use_iommufd(struct argv *a, json_t *device, size_t i, const char *gpu)
{
    auto_free char *folder = NULL;
    char id[32], iommu_fd[16], device_fd[16];

    snprintf(id, sizeof id, "iommufd%zu", i);
    snprintf(iommu_fd, sizeof iommu_fd, "%d", PLAN_FD_IOMMU + (int)i);
    snprintf(device_fd, sizeof device_fd, "%d", PLAN_FD_VFIO + (int)i);
    if (str_format(&folder, "%s/sys/bus/pci/devices/%s", a->in->sysfs_root ? a->in->sysfs_root : "", gpu) < 0)
        a->words.failed = true;
    argv_push_file(a, FILE_WRITE, PLAN_FD_IOMMU + (int)i, "/dev/iommu");
    argv_push_file(a, FILE_VFIO, PLAN_FD_VFIO + (int)i, folder);
    argv_push_json(a, "-object", json_pack("{s:s, s:s, s:s}", "qom-type", "iommufd", "id", id, "fd", iommu_fd));
    device = argv_with(device, "iommufd", json_string(id));
    return argv_with(device, "fd", json_string(device_fd));
}

static void push_gpu(struct argv *a, size_t i, const char *gpu)
{
    char port[32], id[32];
    int function = (int)(i % PCI_FUNCTIONS);

    snprintf(port, sizeof port, "gpu-port%zu", i);
    snprintf(id, sizeof id, "gpu%zu", i);
    json_t *root_port = argv_pci_device("pcie-root-port", port, SLOT_GPU + (int)(i / PCI_FUNCTIONS), function);
    /* Numbers of the slots that the guest sees, from 1: 0 is what QEMU takes for none given. */
    root_port = argv_with(root_port, "chassis", json_integer((json_int_t)i + 1));
    root_port = argv_with(root_port, "slot", json_integer((json_int_t)i + 1));
    if (function == 0)
        root_port = argv_with(root_port, "multifunction", json_true());
    argv_push_json(a, "-device", root_port);
    json_t *device = json_pack("{s:s, s:s, s:s, s:s}", "driver", "vfio-pci", "id", id, "bus", port, "host", gpu);
    argv_push_json(a, "-device", a->confidential == CONFIDENTIAL_NONE ? device : use_iommufd(a, device, i, gpu));
}

void argv_push_gpus(struct argv *a)
{
    size_t n = spec_n_gpus(a->in->spec);

    for (size_t i = 0; i < n; i++)
        push_gpu(a, i, a->in->spec->gpus[i]);
    if (n > 0 && a->family == MACHINE_Q35) {
        strv_push(&a->words, "-fw_cfg");
        strv_push(&a->words, OVMF_WINDOW);
    }
}
