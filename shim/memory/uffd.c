#include "shim/memory/uffd.h"

#include <errno.h>
#include <sys/ioctl.h>

int uffd_register(int uffd, uint64_t addr, uint64_t len, uint64_t modes)
{
    struct uffdio_register arg = { .range = { .start = addr, .len = len }, .mode = modes };

    return ioctl(uffd, UFFDIO_REGISTER, &arg) < 0 ? -errno : 0;
}

int uffd_unregister(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_range arg = { .start = addr, .len = len };

    return ioctl(uffd, UFFDIO_UNREGISTER, &arg) < 0 ? -errno : 0;
}

/* Both ioctls write how far they got (older kernels only on success: hence preset to 0), or the error as a negative number, which errno has. */
static struct uffd_progress progress(int r, int64_t done)
{
    int error = errno;

    if (r == 0)
        return (struct uffd_progress){ 0, (size_t)done };
    return (struct uffd_progress){ -error, done > 0 ? (size_t)done : 0 };
}

static struct uffd_progress copy(int uffd, uint64_t addr, const void *from, size_t len, uint64_t mode)
{
    struct uffdio_copy arg = { .dst = addr, .src = (uintptr_t)from, .len = len, .mode = mode };
    int r = ioctl(uffd, UFFDIO_COPY, &arg);

    return progress(r, arg.copy);
}

struct uffd_progress uffd_copy(int uffd, uint64_t addr, const void *from, size_t len) { return copy(uffd, addr, from, len, 0); }

struct uffd_progress uffd_copy_protected(int uffd, uint64_t addr, const void *from, size_t len)
{
    return copy(uffd, addr, from, len, UFFDIO_COPY_MODE_WP);
}

struct uffd_progress uffd_zero(int uffd, uint64_t addr, size_t len)
{
    struct uffdio_zeropage arg = { .range = { .start = addr, .len = len } };
    int r = ioctl(uffd, UFFDIO_ZEROPAGE, &arg);

    return progress(r, arg.zeropage);
}

int uffd_protect(int uffd, uint64_t addr, uint64_t len, bool on)
{
    struct uffdio_writeprotect arg = { .range = { .start = addr, .len = len }, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };
    int r;

    /* Interrupted, or a page was just changing hands: nothing was lost, it is done again from the start. */
    do
        r = ioctl(uffd, UFFDIO_WRITEPROTECT, &arg);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

int uffd_wake(int uffd, uint64_t addr, uint64_t len)
{
    struct uffdio_range arg = { .start = addr, .len = len };

    return ioctl(uffd, UFFDIO_WAKE, &arg) < 0 ? -errno : 0;
}
