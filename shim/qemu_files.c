#include "shim/qemu_files.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/fd.h"

enum { COPY_CHUNK = 1 << 30 };

/* TUNSETIFF makes a device that isn't there; a tap that the host doesn't know leads nowhere. */
static int check_device(struct ifreq *ifr)
{
    auto_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, ifr) < 0)
        return -errno;
    return 0;
}

/* With the header that QEMU's virtio-net likes to exchange with it, see linux/Documentation/networking/tuntap.rst. */
static int open_tap(const char *name)
{
    struct ifreq ifr = { 0 };
    auto_fd int fd = -1;
    size_t len = strlen(name);
    int r;

    if (len >= sizeof(ifr.ifr_name))
        return -ENAMETOOLONG;
    memcpy(ifr.ifr_name, name, len);
    r = check_device(&ifr);
    if (r < 0)
        return r;
    fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    ifr.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0)
        return -errno;
    return steal_fd(&fd);
}

enum { ENTRIES_MAX = 1024 };

/* As getdents64(2) has it; libc's readdir(3) allocates. */
struct entry {
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

/* The one entry that begins with "vfio": the kernel numbers devices as vfio-pci takes them, so that the number is known only now. */
static int find_vfio(int folder, char *ret_name, size_t size)
{
    _Alignas(struct entry) char buf[ENTRIES_MAX];
    long n;

    while ((n = syscall(SYS_getdents64, folder, buf, sizeof(buf))) > 0) {
        const struct entry *e;

        for (long at = 0; at < n; at += e->len) {
            e = (const struct entry *)(const void *)(buf + at);
            size_t len = strlen(e->name);
            if (strncmp(e->name, "vfio", 4) == 0 && len < size) {
                memcpy(ret_name, e->name, len + 1);
                return 0;
            }
        }
    }
    return n < 0 ? -errno : -ENODEV;
}

/* PCI device → /dev/vfio/devices/vfioN: linux/Documentation/driver-api/vfio.rst, "VFIO device cdev". */
static int open_vfio(const char *device)
{
    static const char nodes[] = "/dev/vfio/devices/";
    char path[sizeof(nodes) + 32];
    auto_fd int folder = open(device, O_RDONLY | O_DIRECTORY | O_CLOEXEC), inner = -1;
    int fd, r;

    if (folder < 0)
        return -errno;
    inner = openat(folder, "vfio-dev", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (inner < 0)
        return errno == ENOENT ? -ENODEV : -errno; /* another driver has it */
    memcpy(path, nodes, sizeof(nodes));
    r = find_vfio(inner, path + sizeof(nodes) - 1, sizeof(path) - sizeof(nodes) + 1);
    if (r < 0)
        return r;
    fd = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* Whoever deletes the folder locks it exclusively first. */
static int open_in_use(const char *path)
{
    auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) < 0)
        return -errno;
    return steal_fd(&fd);
}

static int open_by_kind(const struct plan_file *file)
{
    /* O_NONBLOCK: a FIFO in a disk's place must not hang us; QEMU sets the flags it wants. */
    static const int flags[] = {
        [FILE_READ] = O_RDONLY | O_NONBLOCK,
        [FILE_WRITE] = O_RDWR | O_NONBLOCK,
        [FILE_APPEND] = O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW,
        [FILE_REOPENED] = O_RDONLY | O_NONBLOCK,
    };
    int fd;

    if (file->kind == FILE_TAP)
        return open_tap(file->path);
    if (file->kind == FILE_VFIO)
        return open_vfio(file->path);
    if (file->kind == FILE_IN_USE)
        return open_in_use(file->path);
    fd = open(file->path, flags[file->kind] | O_NOCTTY | O_CLOEXEC, 0640);
    return fd < 0 ? -errno : fd;
}

/* `fd` becomes the file's number, which survives exec. */
static int place_take(int fd, int target)
{
    if (fd != target && dup2(fd, target) < 0)
        return -errno;
    if (fd != target)
        fd_close(fd);
    return fd_set_cloexec(target, false);
}

int qemu_file_open(const struct plan_file *file)
{
    int fd = open_by_kind(file), r;

    if (fd < 0)
        return fd;
    r = place_take(fd, (int)file->fd);
    if (r < 0)
        return r;
    return file->kind == FILE_APPEND || file->kind == FILE_TAP ? 0 : fd_set_nonblock((int)file->fd, false);
}

/* "/proc/self/fd/N" without stdio. */
static void proc_path(unsigned fd, char path[32])
{
    static const char prefix[] = "/proc/self/fd/";
    char digits[12], *p = digits + sizeof(digits);

    *--p = '\0';
    do
        *--p = (char)('0' + fd % 10);
    while ((fd /= 10) > 0);
    memcpy(path, prefix, sizeof(prefix) - 1);
    memcpy(path + sizeof(prefix) - 1, p, (size_t)(digits + sizeof(digits) - p));
}

static int copy(int from, int to)
{
    ssize_t n;

    do
        n = sendfile(to, from, NULL, COPY_CHUNK);
    while (n > 0 || (n < 0 && errno == EINTR));
    if (n < 0 || fcntl(to, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
        return -errno;
    return 0;
}

int qemu_file_make_reopenable(const struct plan_file *file)
{
    auto_fd int opened = -1, fd = -1;
    char path[32];
    int r;

    if (file->kind != FILE_REOPENED)
        return 0;
    proc_path((unsigned)file->fd, path);
    opened = open(path, O_RDONLY | O_CLOEXEC);
    if (opened >= 0)
        return 0;
    if (errno != EACCES)
        return -errno;
    fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    r = copy((int)file->fd, fd);
    return r < 0 ? r : place_take(steal_fd(&fd), (int)file->fd);
}
