/* Unix stream sockets by dirfd and name, so that a folder path of any length works: names are bound and connected through
 * /proc/self/fd/N/NAME when the plain path would not fit sun_path (unix(7)). */
#pragma once

#include <stdbool.h>
#include <sys/types.h>

/* Binds and listens; an old socket of this name is unlinked first, so the caller must hold the lock that makes it his.
 * `mode` is exact (fchmod before listen). Returns a nonblocking, close-on-exec fd. */
int socket_listen(int dirfd, const char *name, mode_t mode, int backlog);

/* Connects without waiting longer than the kernel needs: a full backlog is -EAGAIN, nobody there -ECONNREFUSED or -ENOENT.
 * Returns a nonblocking, close-on-exec fd. */
int socket_connect(int dirfd, const char *name);
/* As above by path; relative paths are the process's. */
int socket_connect_path(const char *path);

/* sendmsg(2) of `len` bytes with a descriptor going along (SCM_RIGHTS, unix(7)), -1: none; it stays the caller's. Returns bytes or -errno. */
ssize_t socket_send_fd(int fd, const void *data, size_t len, int passed);
/* recvmsg(2); *ret_passed is a descriptor that came along, the caller's from now on and close-on-exec, or -1. Bytes, 0 at the end, or -errno. */
ssize_t socket_receive_fd(int fd, void *data, size_t len, int *ret_passed);

struct socket_peer {
    pid_t pid;
    uid_t uid;
    gid_t gid;
};
/* SO_PEERCRED of the other end, as it was at connect or listen time. */
int socket_peer(int fd, struct socket_peer *ret_peer);

/* Whether `peer` has `gid` as primary or supplementary group, supplementary ones by SO_PEERGROUPS on `fd`. */
bool socket_peer_in_group(int fd, const struct socket_peer *peer, gid_t gid);
