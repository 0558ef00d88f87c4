/* The devices of a VM. Their PCI slots are fixed by kind and index, because a guest names its network interfaces after them and a saved
 * device state is only good for the same places. Slots on the root bus:
 *
 *   0x00 host bridge   0x01 random numbers   0x02 vsock   0x03 panic notification (virt)   0x04-0x0b networks
 *   0x0c agent's channel   0x10-0x17 disks, eight functions each   0x18-0x19 root ports of passed-through devices, eight functions each
 *   0x1f chipset (q35); the rest is free for what later versions add. */
#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/argv.h"
#include "lib/spec/limits.h"

enum {
    SLOT_RNG = 0x01,
    SLOT_VSOCK = 0x02,
    SLOT_PANIC = 0x03,
    SLOT_NETWORK = 0x04,
    SLOT_AGENT = 0x0c,
    SLOT_DISK = 0x10,
    PCI_FUNCTIONS = 8,
    DISK_SERIAL_MAX = 20, /* VIRTIO_BLK_ID_BYTES of the virtio specification */
};

_Static_assert(SLOT_NETWORK + NETWORKS_MAX <= SLOT_AGENT, "networks run into the agent's channel");
_Static_assert(PLAN_FD_NETWORK + NETWORKS_MAX <= PLAN_FD_DISK, "networks run into disks");
_Static_assert(PLAN_FD_DISK + DISKS_MAX <= PLAN_FD_BACKING, "disks run into their backing files");
_Static_assert(PLAN_FD_BACKING + DISKS_MAX * BACKING_MAX <= PLAN_FD_IOMMU, "too many backing files");
_Static_assert(SLOT_DISK + DISKS_MAX / PCI_FUNCTIONS <= 0x18, "disks run into passed-through devices");

json_t *argv_pci_device(const char *driver, const char *id, int slot, int function)
{
    char addr[16];

    snprintf(addr, sizeof addr, "0x%x.%d", slot, function);
    return json_pack("{s:s, s:s, s:s, s:s}", "driver", driver, "id", id, "bus", "pcie.0", "addr", addr);
}

json_t *argv_with(json_t *device, const char *key, json_t *value)
{
    if (device && value && json_object_set_new_nocheck(device, key, value) == 0)
        return device;
    if (!device)
        json_decref(value);
    json_decref(device);
    return NULL;
}

int disk_path(const struct resolve_input *in, const struct spec_disk *disk, char **ret_path)
{
    if (disk->path)
        return str_format(ret_path, "%s", disk->path);
    return str_format(ret_path, "%s/%s.%s", in->state_dir, disk->name, spec_disk_format(disk));
}

static json_t *file_node(struct argv *a, const char *path, int fd, bool readonly)
{
    char name[32];

    argv_push_fdset(a, readonly ? FILE_READ : FILE_WRITE, fd, path);
    snprintf(name, sizeof name, "/dev/fdset/%d", fd);
    /* Block devices have a driver of their own, and a plan is made without looking at the host. */
    return has_prefix(path, "/dev/") ? json_pack("{s:s, s:s}", "driver", "host_device", "filename", name)
                                     : json_pack("{s:s, s:s, s:s}", "driver", "file", "filename", name, "locking", "auto");
}

/* The chain of files below a qcow2 image, the deepest first into the next. Without it QEMU goes by the image's own word, and opens what
 * that names with its own user's rights. */
static json_t *backing_chain(struct argv *a, const struct spec_disk *disk, size_t i)
{
    json_t *chain = NULL;
    size_t n = 0;

    while (disk->backing && disk->backing[n])
        n++;
    while (n-- > 0) {
        json_t *file = file_node(a, disk->backing[n], PLAN_FD_BACKING + (int)(i * BACKING_MAX + n), true);
        json_t *node = argv_with(json_pack("{s:s, s:b}", "driver", spec_path_format(disk->backing[n]), "read-only", 1), "file", file);

        chain = chain ? argv_with(node, "backing", chain) : node;
        if (!chain)
            a->words.failed = true;
    }
    return chain;
}

static void push_blockdev(struct argv *a, const struct spec_disk *disk, size_t i, const char *node)
{
    auto_free char *path = NULL;

    if (disk_path(a->in, disk, &path) < 0) {
        a->words.failed = true;
        return;
    }
    json_t *file = argv_with(file_node(a, path, PLAN_FD_DISK + (int)i, disk->readonly), "discard", json_string("unmap"));
    json_t *format = json_pack("{s:s, s:s, s:b, s:s}", "driver", spec_disk_format(disk), "node-name", node, "read-only", disk->readonly,
                               "discard", "unmap");
    json_t *image = argv_with(format, "file", file), *backing = backing_chain(a, disk, i);
    argv_push_json(a, "-blockdev", backing ? argv_with(image, "backing", backing) : image);
}

static void push_disk(struct argv *a, const struct spec_disk *disk, size_t i)
{
    char node[32], id[32];
    int function = (int)(i % PCI_FUNCTIONS);

    snprintf(node, sizeof node, "disk%zu-image", i);
    snprintf(id, sizeof id, "disk%zu", i);
    push_blockdev(a, disk, i, node);
    json_t *device = argv_pci_device("virtio-blk-pci", id, SLOT_DISK + (int)(i / PCI_FUNCTIONS), function);
    device = argv_with(device, "drive", json_string(node));
    if (function == 0)
        device = argv_with(device, "multifunction", json_true());
    if (disk->name && strlen(disk->name) <= DISK_SERIAL_MAX)
        device = argv_with(device, "serial", json_string(disk->name));
    if (!a->in->spec->boot.kernel)
        device = argv_with(device, "bootindex", json_integer((json_int_t)i + 1));
    argv_push_json(a, "-device", device);
}

void argv_push_disks(struct argv *a)
{
    for (size_t i = 0; i < a->in->spec->n_disks; i++)
        push_disk(a, &a->in->spec->disks[i], i);
}

void network_default_mac(const char *name, size_t index, unsigned attempt, char ret_mac[MAC_TEXT_MAX])
{
    uint64_t h = HASH_BEGIN;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * UINT64_C(0x100000001b3);
    h = (h ^ (0x100 + index)) * UINT64_C(0x100000001b3); /* 0x100: no character of a name */
    for (; attempt > 0; attempt--)
        h = (h ^ 0x200) * UINT64_C(0x100000001b3);
    h ^= h >> 32;
    snprintf(ret_mac, MAC_TEXT_MAX, "52:54:00:%02x:%02x:%02x", (unsigned)(h >> 16) & 0xff, (unsigned)(h >> 8) & 0xff, (unsigned)h & 0xff);
}

/* "127.0.0.1:8080" -> "tcp:127.0.0.1:8080-:80". An address is checked before it gets here, but may be absent: "8080". */
static json_t *hostfwd(const struct spec_forward *f)
{
    auto_free char *text = NULL;
    const char *colon = strchr(f->host, ':');

    if (str_format(&text, "%s:%s%s-:%u", f->proto, colon ? "" : ":", f->host, (unsigned)f->guest) < 0)
        return NULL;
    return json_pack("{s:s}", "str", text);
}

static json_t *user_netdev(const struct spec_network *net, const char *id)
{
    json_t *netdev = json_pack("{s:s, s:s}", "type", "user", "id", id);
    auto_json json_t *forwards = json_array();

    for (size_t i = 0; i < net->n_forward; i++)
        if (json_array_append_new(forwards, hostfwd(&net->forward[i])) < 0) {
            json_decref(netdev);
            return NULL;
        }
    return net->n_forward > 0 ? argv_with(netdev, "hostfwd", json_incref(forwards)) : netdev;
}

static void push_network(struct argv *a, const struct spec_network *net, size_t i)
{
    char netdev_id[32], id[32], mac[MAC_TEXT_MAX];

    snprintf(netdev_id, sizeof netdev_id, "net%zu", i);
    snprintf(id, sizeof id, "nic%zu", i);
    network_default_mac(a->in->spec->name, i, 0, mac);
    if (net->mode == NETWORK_TAP) {
        char fd[16];

        snprintf(fd, sizeof fd, "%d", PLAN_FD_NETWORK + (int)i);
        argv_push_file(a, FILE_TAP, PLAN_FD_NETWORK + (int)i, net->ifname);
        argv_push_json(a, "-netdev", json_pack("{s:s, s:s, s:s}", "type", "tap", "id", netdev_id, "fd", fd));
    } else {
        argv_push_json(a, "-netdev", user_netdev(net, netdev_id));
    }
    json_t *device = argv_pci_device("virtio-net-pci", id, SLOT_NETWORK + (int)i, 0);
    device = argv_with(device, "netdev", json_string(netdev_id));
    device = argv_with(device, "mac", json_string(net->mac ? net->mac : mac));
    /* No option ROM: nothing boots from the network, and the ROM's size would be part of every saved device state. */
    argv_push_json(a, "-device", argv_with(device, "romfile", json_string("")));
}

void argv_push_networks(struct argv *a)
{
    for (size_t i = 0; i < a->in->spec->n_network; i++)
        push_network(a, &a->in->spec->network[i], i);
}

/* The name is the one qemu-ga opens in the guest: QEMU docs/interop/qemu-ga.rst. */
static void push_agent(struct argv *a)
{
    strv_push(&a->words, "-chardev");
    strv_pushf(&a->words, "socket,id=agent,fd=%d,server=on,wait=off", PLAN_FD_AGENT);
    argv_push_json(a, "-device", argv_pci_device("virtio-serial-pci", "serial0", SLOT_AGENT, 0));
    argv_push_json(a, "-device",
                   json_pack("{s:s, s:s, s:s, s:s, s:s}", "driver", "virtserialport", "id", "agent0", "bus", "serial0.0", "chardev",
                             "agent", "name", "org.qemu.guest_agent.0"));
}

static void push_vsock(struct argv *a)
{
    json_t *device = argv_pci_device("vhost-vsock-pci", "vsock0", SLOT_VSOCK, 0);
    char fd[16];

    snprintf(fd, sizeof fd, "%d", PLAN_FD_VSOCK);
    argv_push_file(a, FILE_WRITE, PLAN_FD_VSOCK, "/dev/vhost-vsock");
    device = argv_with(device, "vhostfd", json_string(fd));
    argv_push_json(a, "-device", argv_with(device, "guest-cid", json_integer((json_int_t)a->in->vsock_cid)));
}

void argv_push_extras(struct argv *a)
{
    argv_push_json(a, "-object", json_pack("{s:s, s:s}", "qom-type", "rng-builtin", "id", "entropy"));
    argv_push_json(a, "-device", argv_with(argv_pci_device("virtio-rng-pci", "rng0", SLOT_RNG, 0), "rng", json_string("entropy")));
    if (a->in->spec->vsock.wanted)
        push_vsock(a);
    if (a->in->spec->agent)
        push_agent(a);
    if (a->family == MACHINE_Q35) {
        argv_push_json(a, "-device", json_pack("{s:s, s:s}", "driver", "pvpanic", "id", "panic0"));
    }
    /* A confidential guest is neither restored nor cloned, and QEMU could not write into its memory. */
    if (a->family == MACHINE_Q35 && a->confidential == CONFIDENTIAL_NONE) {
        /* New at every start, so that a guest which is restored or cloned learns that its randomness was seen before. */
        argv_push_json(a, "-device", json_pack("{s:s, s:s, s:s}", "driver", "vmgenid", "id", "generation0", "guid", "auto"));
    }
    if (a->family == MACHINE_VIRT)
        argv_push_json(a, "-device", argv_pci_device("pvpanic-pci", "panic0", SLOT_PANIC, 0));
}
