#include "lib/base/socket.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "lib/base/fd.h"

/* Fills in the address if the text fits, with its NUL: unix(7). */
static int address_set(struct sockaddr_un *ret_address, const char *path)
{
    size_t len = strlen(path);
    if (len == 0)
        return -EINVAL;
    if (len >= sizeof(ret_address->sun_path))
        return -ENAMETOOLONG;
    *ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(ret_address->sun_path, path, len + 1);
    return 0;
}

/* The name as seen from a folder's fd: fits whatever the folder's own path is. */
static int address_by_fd(struct sockaddr_un *ret_address, int dirfd, const char *name)
{
    if (dirfd == AT_FDCWD)
        return address_set(ret_address, name);
    auto_free char *path = NULL;
    int r = str_format(&path, "/proc/self/fd/%d/%s", dirfd, name);
    return r < 0 ? r : address_set(ret_address, path);
}

/* The plain path where it fits and still leads to this folder, since that is what ss(8) shows to people; else by fd. */
static int address_plain(struct sockaddr_un *ret_address, int dirfd, const char *name)
{
    char link[64], folder[PATH_MAX];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", dirfd);
    ssize_t n = dirfd == AT_FDCWD ? -1 : readlink(link, folder, sizeof(folder) - 1);
    if (n > 0 && (size_t)n + 1 + strlen(name) < sizeof(ret_address->sun_path)) {
        folder[n] = '\0';
        struct stat here, there;
        auto_free char *path = NULL;
        if (fstat(dirfd, &here) == 0 && stat(folder, &there) == 0 && here.st_dev == there.st_dev && here.st_ino == there.st_ino &&
            str_format(&path, "%s/%s", folder, name) == 0)
            return address_set(ret_address, path);
    }
    return address_by_fd(ret_address, dirfd, name);
}

/* Only a socket is ever unlinked: whatever else has the name is somebody's file. */
static int unlink_old(int dirfd, const char *name)
{
    struct stat st;
    if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(st.st_mode))
        return -EEXIST;
    return unlinkat(dirfd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int socket_listen(int dirfd, const char *name, mode_t mode, int backlog)
{
    struct sockaddr_un address;
    if (!*name || strchr(name, '/'))
        return -EINVAL;
    int r = address_plain(&address, dirfd, name);
    if (r < 0)
        return r;
    r = unlink_old(dirfd, name);
    if (r < 0)
        return r;
    auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    /* Linux gives the file the socket's own mode less the umask: never wider than asked, not even for an instant. */
    if (fchmod(fd, mode) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return -errno;
    if (fchmodat(dirfd, name, mode, 0) < 0 || listen(fd, backlog) < 0) {
        r = -errno;
        unlinkat(dirfd, name, 0);
        return r;
    }
    return steal_fd(&fd);
}

static int connect_to(const struct sockaddr_un *address)
{
    auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
        return -errno;
    return steal_fd(&fd);
}

int socket_connect(int dirfd, const char *name)
{
    struct sockaddr_un address;
    int r = address_by_fd(&address, dirfd, name);
    return r < 0 ? r : connect_to(&address);
}

int socket_connect_path(const char *path)
{
    struct sockaddr_un address;
    int r = address_set(&address, path);
    if (r >= 0)
        return connect_to(&address);
    const char *slash = strrchr(path, '/');
    if (r != -ENAMETOOLONG || !slash)
        return r;
    auto_free char *folder = NULL;
    if (str_format(&folder, "%.*s", slash == path ? 1 : (int)(slash - path), path) < 0)
        return -ENOMEM;
    auto_fd int dirfd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return dirfd < 0 ? -errno : socket_connect(dirfd, slash + 1);
}

int socket_peer(int fd, struct socket_peer *ret_peer)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    if (len != sizeof(cred) || cred.pid <= 0)
        return -ENODATA;
    *ret_peer = (struct socket_peer){ .pid = cred.pid, .uid = cred.uid, .gid = cred.gid };
    return 0;
}

bool socket_peer_in_group(int fd, const struct socket_peer *peer, gid_t gid)
{
    if (peer->gid == gid)
        return true;
    socklen_t len = 64 * sizeof(gid_t);
    for (;;) {
        auto_free gid_t *groups = malloc(len);
        if (!groups)
            return false;
        socklen_t room = len;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &len) < 0) {
            if (errno == ERANGE && len > room) /* len now says how much is needed */
                continue;
            return false;
        }
        for (size_t i = 0; i < len / sizeof(gid_t); i++)
            if (groups[i] == gid)
                return true;
        return false;
    }
}

union rights {
    struct cmsghdr header;
    char space[CMSG_SPACE(sizeof(int))];
};

ssize_t socket_send_fd(int fd, const void *data, size_t len, int passed)
{
    union rights rights = { .header = { .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) } };
    struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1 };
    ssize_t n;

    if (passed >= 0) {
        memcpy(CMSG_DATA(&rights.header), &passed, sizeof(int));
        message.msg_control = &rights;
        message.msg_controllen = sizeof(rights.space);
    }
    n = sendmsg(fd, &message, MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

ssize_t socket_receive_fd(int fd, void *data, size_t len, int *ret_passed)
{
    union rights rights;
    struct iovec iov = { .iov_base = data, .iov_len = len };
    struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof(rights.space) };
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    int passed = -1;

    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&message); c; c = CMSG_NXTHDR(&message, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
            memcpy(&passed, CMSG_DATA(c), sizeof(int));
    *ret_passed = passed;
    return n;
}
