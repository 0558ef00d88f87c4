#include "lib/disk/image.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"

/* The first fields of a qcow2 image, big-endian. */
struct qcow2_head {
    uint32_t magic, version;
    uint64_t backing_file_offset;
    uint32_t backing_file_size, cluster_bits;
    uint64_t size;
};

enum { QCOW2_MAGIC = 0x514649fb, QCOW2_VERSION_MIN = 2 };

static int qcow2_size(int fd, uint64_t *ret_size)
{
    struct qcow2_head head;
    ssize_t n = pread(fd, &head, sizeof(head), 0);

    if (n < 0)
        return -errno;
    if ((size_t)n < sizeof(head) || be32toh(head.magic) != QCOW2_MAGIC || be32toh(head.version) < QCOW2_VERSION_MIN)
        return -EINVAL;
    *ret_size = be64toh(head.size);
    return 0;
}

int image_size(int fd, const char *format, uint64_t *ret_size)
{
    struct stat st;

    if (streq(format, "qcow2"))
        return qcow2_size(fd, ret_size);
    if (fstat(fd, &st) < 0)
        return -errno;
    if (S_ISBLK(st.st_mode))
        return ioctl(fd, BLKGETSIZE64, ret_size) < 0 ? -errno : 0;
    if (!S_ISREG(st.st_mode))
        return -EINVAL;
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

/* Bytes of the lock: 100 + the permission's bit that is used, 200 + that which is denied. Bits 1 to 3 are the ones that change a disk:
 * write, write-unchanged and resize (QEMU include/block/block-common.h). */
static const struct byte_range {
    off_t start, len;
} used_by_any[] = { { 100, 64 }, { 200, 64 } }, used_by_writer[] = { { 101, 3 } };

static int range_is_locked(int fd, const struct byte_range *range)
{
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = range->start, .l_len = range->len };

    if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
        return -errno;
    return lock.l_type != F_UNLCK;
}

int image_in_use(int fd, enum disk_use use)
{
    const struct byte_range *ranges = use == IMAGE_WRITER ? used_by_writer : used_by_any;
    size_t n = use == IMAGE_WRITER ? ARRAY_LEN(used_by_writer) : ARRAY_LEN(used_by_any);
    int r = 0;

    for (size_t i = 0; i < n && r == 0; i++)
        r = range_is_locked(fd, &ranges[i]);
    return r;
}

int image_check_unused(const char *name, const char *path, enum disk_use use, struct err *err)
{
    auto_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    auto_free char *user = NULL;
    int r;

    if (fd < 0)
        return errno == ENOENT ? 0 : err_set_errno(err, errno, "bad-disk", "disk %s: can't look who uses %s", name, path);
    r = image_in_use(fd, use);
    if (r < 0)
        return err_set_errno(err, -r, "bad-disk", "disk %s: can't look who uses %s", name, path);
    if (r == 0)
        return 0;
    user = image_user(fd);
    return err_set(err, EBUSY, "in-use", "disk %s is in use by %s: %s stays as it is; end that first", name,
                   user ? user : "a process that can't be seen from here", path);
}
