/* The root file system of a release as its guest mounts it: through dm-verity, with the root hash that stands on the kernel's command line
 * (rootfs_verity.hash=). So one wrong byte of the image, another release's hash, or another disk in its place is an error here.
 *
 *   verity mounted DEVICE at /mnt
 *   verity: what failed: why
 *
 * The device is an ext4 file system followed by the hash tree and its superblock, as "veritysetup format" writes it (kernel
 * Documentation/admin-guide/device-mapper/verity.rst, cryptsetup's "DMVerity" wiki page). */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "tests/guest/work.h"

enum { BLOCK = 4096, SECTOR = 512, SALT_MAX = 256, HASH_MAX = 128, EXT4_SUPERBLOCK = 1024, EXT4_MAGIC = 0xef53 };

#define NAME "rootfs"

struct superblock { /* of the hash tree, little-endian */
    uint8_t signature[8];
    uint32_t version, hash_type;
    uint8_t uuid[16];
    char algorithm[32];
    uint32_t data_block_size, hash_block_size;
    uint64_t data_blocks;
    uint16_t salt_size;
    uint8_t pad[6];
    uint8_t salt[SALT_MAX];
};

static bool load_modules(int tty)
{
    static const char *const modules[] = { "dm-mod", "dm-bufio", "reed_solomon", "dm-verity" };

    for (size_t i = 0; i < sizeof(modules) / sizeof(modules[0]); i++) {
        char path[64];

        snprintf(path, sizeof(path), "/modules/%s.ko", modules[i]);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            continue; /* built in, or device mapper will say so */
        if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
            tell(tty, "verity: module %s: %m", modules[i]);
        close(fd);
    }
    return access("/dev/mapper/control", F_OK) == 0;
}

/* Bytes of the ext4 file system: where the superblock of the tree begins. */
static unsigned long long file_system_size(int fd)
{
    uint8_t sb[BLOCK];
    uint32_t blocks, shift;
    uint16_t magic;

    if (pread(fd, sb, sizeof(sb), EXT4_SUPERBLOCK) != sizeof(sb))
        return 0;
    memcpy(&magic, sb + 0x38, sizeof(magic));
    memcpy(&blocks, sb + 4, sizeof(blocks));
    memcpy(&shift, sb + 0x18, sizeof(shift));
    return le16toh(magic) == EXT4_MAGIC ? (unsigned long long)le32toh(blocks) << (10 + le32toh(shift)) : 0;
}

static bool root_hash(char hash[HASH_MAX + 1])
{
    static const char key[] = "rootfs_verity.hash=";
    char line[2048] = "";
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);

    if (fd >= 0)
        close(fd);
    const char *at = n > 0 ? strstr(line, key) : NULL;
    if (!at)
        return false;
    at += strlen(key);
    size_t len = strcspn(at, " \n");
    if (len == 0 || len > HASH_MAX)
        return false;
    memcpy(hash, at, len);
    hash[len] = '\0';
    return true;
}

static bool device_mapper(int control, unsigned long command, struct dm_ioctl *io, size_t size, unsigned flags)
{
    memcpy(io->version, (const uint32_t[]){ DM_VERSION_MAJOR, 0, 0 }, sizeof(io->version));
    io->data_size = (uint32_t)size;
    io->data_start = sizeof(*io);
    io->flags = flags;
    snprintf(io->name, sizeof(io->name), NAME);
    return ioctl(control, command, io) == 0;
}

/* The parameters of the target, by the tree's superblock. */
static void describe(const struct superblock *sb, const char *device, unsigned long long size, const char *hash, char *text, size_t len)
{
    char salt[2 * SALT_MAX + 1] = "-";

    for (unsigned i = 0; i < le16toh(sb->salt_size) && i < SALT_MAX; i++)
        snprintf(salt + 2 * i, 3, "%02x", sb->salt[i]);
    snprintf(text, len, "%u %s %s %u %u %llu %llu %.32s %s %s", le32toh(sb->hash_type), device, device, le32toh(sb->data_block_size),
             le32toh(sb->hash_block_size), (unsigned long long)le64toh(sb->data_blocks), size / le32toh(sb->hash_block_size) + 1,
             sb->algorithm, hash, salt);
}

static bool make_device(int tty, const struct superblock *sb, const char *device, unsigned long long size, const char *hash, dev_t *ret_dev)
{
    struct {
        struct dm_ioctl io;
        struct dm_target_spec target;
        char parameters[1024];
    } table = { .io.target_count = 1, .target = { .length = size / SECTOR, .target_type = "verity" } };
    struct dm_ioctl io = { 0 };
    int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);

    describe(sb, device, size, hash, table.parameters, sizeof(table.parameters));
    bool made = control >= 0 && device_mapper(control, DM_DEV_CREATE, &io, sizeof(io), 0) &&
                device_mapper(control, DM_TABLE_LOAD, &table.io, sizeof(table), DM_READONLY_FLAG);
    memset(&io, 0, sizeof(io));
    made = made && device_mapper(control, DM_DEV_SUSPEND, &io, sizeof(io), 0); /* resumes it */
    if (!made)
        tell(tty, "verity: device mapper: %m (%s)", table.parameters);
    if (control >= 0)
        close(control);
    *ret_dev = (dev_t)io.dev;
    return made;
}

int verity_run(int tty, const char *device)
{
    struct superblock sb;
    char hash[HASH_MAX + 1];
    dev_t dev;
    int fd = open(device, O_RDONLY | O_CLOEXEC);
    unsigned long long size = fd < 0 ? 0 : file_system_size(fd);

    if (size == 0 || pread(fd, &sb, sizeof(sb), (off_t)size) != sizeof(sb) || memcmp(sb.signature, "verity\0\0", 8) != 0) {
        tell(tty, "verity: %s is no ext4 file system with a hash tree behind it", device);
        return 1;
    }
    if (!load_modules(tty) || !root_hash(hash)) {
        tell(tty, "verity: no device mapper, or no rootfs_verity.hash= on the kernel's command line");
        return 1;
    }
    if (!make_device(tty, &sb, device, size, hash, &dev))
        return 1;
    if ((mknod("/dev/" NAME, S_IFBLK | 0600, dev) < 0 && errno != EEXIST) || mount("/dev/" NAME, "/mnt", "ext4", MS_RDONLY, "noload") < 0) {
        tell(tty, "verity: mount: %m");
        return 1;
    }
    tell(tty, "verity mounted %s at /mnt", device);
    return 0;
}
