/* holdfast-agent.so: preloaded into QEMU, watches for the one mmap(2) that maps the guest's RAM, makes a userfaultfd for it and hands that
 * to the shim (agent.h). Everything else of QEMU is passed through. Policy is the shim's: nothing here registers, copies or serves.
 *
 * userfaultfd's ioctls act on the address space that made the descriptor, so QEMU itself must make it: userfaultfd(2). */
#include "shim/agent/agent.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* linux/userfaultfd.h since 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define EXPORT __attribute__((visibility("default")))

typedef void *mmap_function(void *, size_t, int, int, int, off_t);
typedef int madvise_function(void *, size_t, int);
typedef int fallocate_function(int, int, off_t, off_t);

static mmap_function *real_mmap;
static madvise_function *real_madvise;
static fallocate_function *real_fallocate;
static struct stat ram;    /* of AGENT_FD_RAM; st_ino 0: nothing is waited for (any more) */
static bool must;          /* no go: no QEMU */
static struct stat shared; /* of the memfd once it is mapped … */
static char *shared_at;    /* … and where, unless a file took its place */
static char *mapped;       /* where a file took the RAM's place … */
static size_t mapped_len;  /* … and how far */

static void say(const char *what)
{
    static const char prefix[] = "holdfast-agent: ";

    if (write(STDERR_FILENO, prefix, sizeof(prefix) - 1) < 0 || write(STDERR_FILENO, what, strlen(what)) < 0 ||
        write(STDERR_FILENO, "\n", 1) < 0)
        return; /* nobody to tell */
}

/* Without the RAM as it should be there is no guest; otherwise QEMU goes on as if we weren't here. */
static void give_up(const char *why)
{
    say(why);
    if (must)
        _exit(1);
}

__attribute__((constructor)) static void begin(void)
{
    const char *mode = getenv(AGENT_ENV);

    must = mode && strcmp(mode, AGENT_MUST) == 0;
    /* Nothing QEMU might start is to have us. */
    unsetenv("LD_PRELOAD");
    unsetenv(AGENT_ENV);
    close(AGENT_FD_SELF);
    real_mmap = (mmap_function *)dlsym(RTLD_NEXT, "mmap64");
    real_madvise = (madvise_function *)dlsym(RTLD_NEXT, "madvise");
    real_fallocate = (fallocate_function *)dlsym(RTLD_NEXT, "fallocate64");
    if (!real_mmap || !real_madvise || !real_fallocate || fstat(AGENT_FD_RAM, &ram) < 0 || !S_ISREG(ram.st_mode)) {
        memset(&ram, 0, sizeof(ram));
        give_up("there is no guest RAM to look after");
    }
    (void)fcntl(AGENT_FD_UFFD, F_SETFD, FD_CLOEXEC);
    (void)fcntl(AGENT_FD_SOCKET, F_SETFD, FD_CLOEXEC);
    /* A shim that takes a predecessor's place fetches the userfaultfd from us; where both are one ordinary user's, yama needs telling. */
    (void)prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0);
}

/* O_NONBLOCK, or poll(2) on it always says POLLERR. All events the kernel can send are asked for; what it can't do is told by `features`. */
static int make_userfaultfd(uint64_t *ret_features)
{
    static const uint64_t wanted[] = {
        UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_WP_HUGETLBFS_SHMEM,
        UFFD_FEATURE_EVENT_REMOVE | UFFD_FEATURE_MISSING_SHMEM, /* kernels before 5.19 */
    };
    int error = ENODEV;

    for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
        struct uffdio_api api = { .api = UFFD_API, .features = wanted[i] };
        int fd = ioctl(AGENT_FD_UFFD, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

        if (fd < 0)
            fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            return -errno;
        if (ioctl(fd, UFFDIO_API, &api) == 0) {
            *ret_features = wanted[i];
            return fd;
        }
        error = errno;
        close(fd);
    }
    return -error;
}

static int send_hello(const struct agent_hello *hello, int fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = { 0 };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)hello, .iov_len = sizeof(*hello) };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };

    if (fd >= 0) {
        message.msg_control = &control;
        message.msg_controllen = sizeof(control);
        control.header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(int));
    }
    return sendmsg(AGENT_FD_SOCKET, &message, MSG_NOSIGNAL) == sizeof(*hello) ? 0 : -1;
}

/* *ret_fd: the file to map instead, or -1. */
static int receive_go(struct agent_go *go, int *ret_fd)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = { .iov_base = go, .iov_len = sizeof(*go) };
    struct msghdr message;
    ssize_t n;

    do {
        message = (struct msghdr){ .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
        n = recvmsg(AGENT_FD_SOCKET, &message, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n != sizeof(*go) || go->protocol != AGENT_PROTOCOL)
        return -1;
    *ret_fd = -1;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(ret_fd, CMSG_DATA(c), sizeof(int));
    return go->map_file && *ret_fd < 0 ? -1 : 0;
}

static int map_file(char *addr, size_t len, int fd)
{
    /* The file is open for reading only: what the guest writes is QEMU's own copy of a page. */
    void *p = real_mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, 0);

    close(fd);
    if (p == MAP_FAILED)
        return -1;
    shared_at = NULL;
    mapped = addr;
    mapped_len = len;
    return 0;
}

static void hand_over(char *addr, size_t len)
{
    struct agent_hello hello = { .protocol = AGENT_PROTOCOL, .addr = (uintptr_t)addr, .len = len };
    struct agent_go go;
    int fd = make_userfaultfd(&hello.features), file = -1, r;

    if (fd < 0)
        hello.error = (uint32_t)-fd;
    if (fd >= 0 && fd != AGENT_FD_UFFD) {
        /* The only copy must never be lost: with it the missing pages of a guest would read as zeros. */
        r = dup3(fd, AGENT_FD_UFFD, O_CLOEXEC);
        close(fd);
        fd = r;
        if (r < 0)
            hello.error = (uint32_t)errno;
    }
    if (send_hello(&hello, fd) < 0 || receive_go(&go, &file) < 0)
        give_up("the shim did not say what the guest's RAM is to be");
    else if (go.map_file && map_file(addr, len, file) < 0)
        give_up("can't map the snapshot's memory");
    close(AGENT_FD_SOCKET);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    struct stat st;
    void *p;

    if (!real_mmap) /* somebody's constructor came before ours */
        return (void *)syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
    p = real_mmap(addr, len, prot, flags, fd, offset);
    /* QEMU reserves a range with PROT_NONE first, then maps the file into it: the writable one is it. */
    if (p == MAP_FAILED || fd < 0 || ram.st_ino == 0 || !(prot & PROT_WRITE))
        return p;
    if (fstat(fd, &st) == 0 && st.st_ino == ram.st_ino && st.st_dev == ram.st_dev) {
        shared = ram;
        shared_at = p;
        memset(&ram, 0, sizeof(ram));
        hand_over(p, len);
    }
    return p;
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset) { return mmap64(addr, len, prot, flags, fd, offset); }

/* A page that the guest gives back reads as zeros from then on; of a private mapping it would be the file's old content. */
EXPORT int madvise(void *addr, size_t len, int advice)
{
    char *p = addr;

    if (!mapped || advice != MADV_DONTNEED || p < mapped || p + len > mapped + mapped_len)
        return real_madvise ? real_madvise(addr, len, advice) : (int)syscall(SYS_madvise, addr, len, advice);
    p = real_mmap(addr, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? -1 : 0;
}

/* QEMU gives pages back by a hole in the memfd, of which nobody is told, and by madvise(2) after it. A pager could put the snapshot's old page
 * back in between. MADV_REMOVE makes the hole as well, and not before the pager has read that it will. */
EXPORT int fallocate64(int fd, int mode, off_t offset, off_t len)
{
    struct stat st;

    if (shared_at && (mode & FALLOC_FL_PUNCH_HOLE) && fstat(fd, &st) == 0 && st.st_ino == shared.st_ino && st.st_dev == shared.st_dev)
        return real_madvise(shared_at + offset, (size_t)len, MADV_REMOVE);
    return real_fallocate ? real_fallocate(fd, mode, offset, len) : (int)syscall(SYS_fallocate, fd, mode, offset, len);
}

EXPORT int fallocate(int fd, int mode, off_t offset, off_t len) { return fallocate64(fd, mode, offset, len); }
