#include "lib/manager/host_ports.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/util.h"

enum {
    TABLE_MAX = 64 * 1024 * 1024, /* a busy host's connections, 150 bytes each */
    COMM_MAX = 64,
    LINE_COLUMNS = 10, /* of /proc/net/tcp, up to the inode: proc(5) */
    COLUMN_LOCAL = 1,
    COLUMN_STATE = 3,
    COLUMN_UID = 7,
    COLUMN_INODE = 9,
    TCP_LISTENING = 0x0A, /* TCP_LISTEN of the kernel's include/net/tcp_states.h */
};

/* Its listening sockets set SO_REUSEADDR for TCP, which lets connections of a predecessor linger (libslirp, socket.c). */
int host_port_try(const struct port_claim *port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = port->host.addr, .sin_port = htons(port->host.port) };
    bool tcp = port->proto == PORT_TCP;
    auto_fd int fd = socket(AF_INET, (tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_CLOEXEC, 0);
    const int on = 1;

    if (fd < 0)
        return -errno;
    if (tcp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&addr, sizeof addr) < 0 || (tcp && listen(fd, 1) < 0))
        return -errno;
    return 0;
}

/* ---- the kernel's table of sockets ---- */

struct entry {
    uint64_t inode, uid;
};

static int split(char *line, char *columns[LINE_COLUMNS])
{
    int n = 0;

    for (char *p = line; n < LINE_COLUMNS; n++) {
        p += strspn(p, " ");
        if (!*p)
            break;
        columns[n] = p;
        p += strcspn(p, " ");
        if (*p)
            *p++ = '\0';
    }
    return n;
}

static int hex_u32(const char *s, size_t len, uint32_t *ret)
{
    uint32_t value = 0;

    for (size_t i = 0; i < len; i++) {
        if (!isxdigit((unsigned char)s[i]))
            return -EINVAL;
        value = value << 4 | (uint32_t)(s[i] <= '9' ? s[i] - '0' : (s[i] | 0x20) - 'a' + 10);
    }
    *ret = value;
    return 0;
}

/* Whether a socket bound to this address (8 digits, or 32 of IPv6, of which each group is in the host's order) is in the way of the port. */
static bool address_collides(const char *hex, size_t len, in_addr_t wanted)
{
    uint32_t group[4] = { 0 };
    bool mapped;

    for (size_t i = 0; i * 8 < len && i < 4; i++)
        if (hex_u32(hex + i * 8, 8, &group[i]) < 0)
            return false;
    if (len == 8)
        return group[0] == INADDR_ANY || wanted == INADDR_ANY || group[0] == wanted;
    mapped = group[0] == 0 && group[1] == 0 && group[2] == htonl(0xffff);
    if (mapped)
        return group[3] == INADDR_ANY || wanted == INADDR_ANY || group[3] == wanted;
    return group[0] == 0 && group[1] == 0 && group[2] == 0 && group[3] == 0; /* "::", which takes IPv4 with it unless IPV6_V6ONLY is set */
}

static bool line_matches(char *line, const struct port_claim *port, struct entry *ret_entry)
{
    char *columns[LINE_COLUMNS];
    struct entry entry;
    uint32_t number, state;
    const char *colon;

    if (split(line, columns) < LINE_COLUMNS)
        return false;
    colon = strchr(columns[COLUMN_LOCAL], ':');
    if (!colon || strlen(colon + 1) != 4 || hex_u32(colon + 1, 4, &number) < 0 || number != port->host.port)
        return false;
    if (strlen(columns[COLUMN_STATE]) != 2 || hex_u32(columns[COLUMN_STATE], 2, &state) < 0)
        return false;
    if (port->proto == PORT_TCP && state != TCP_LISTENING)
        return false;
    if (!address_collides(columns[COLUMN_LOCAL], (size_t)(colon - columns[COLUMN_LOCAL]), port->host.addr.s_addr))
        return false;
    if (parse_u64(columns[COLUMN_INODE], 1, UINT64_MAX, &entry.inode) < 0 || parse_u64(columns[COLUMN_UID], 0, UINT32_MAX, &entry.uid) < 0)
        return false;
    *ret_entry = entry;
    return true;
}

static bool find_in(int proc_fd, const char *table, const struct port_claim *port, struct entry *ret_entry)
{
    auto_free char *text = NULL;
    auto_fd int fd = openat(proc_fd, table, O_RDONLY | O_CLOEXEC);
    size_t len;

    if (fd < 0 || fd_read_all(fd, TABLE_MAX, &text, &len) < 0)
        return false;
    for (char *line = text, *end; line && *line; line = end) {
        end = strchr(line, '\n');
        if (end)
            *end++ = '\0';
        if (line_matches(line, port, ret_entry))
            return true;
    }
    return false;
}

/* ---- whose it is ---- */

static bool has_socket(int proc_fd, const char *pid, const char *link)
{
    char path[64], target[64];
    const struct dirent *entry;
    bool found = false;
    DIR *dir;
    int fd;

    snprintf(path, sizeof path, "%.20s/fd", pid);
    fd = openat(proc_fd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        fd_close(fd);
        return false;
    }
    while (!found && (entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);

        target[n > 0 ? n : 0] = '\0';
        found = streq(target, link);
    }
    closedir(dir);
    return found;
}

static void describe(int proc_fd, const char *pid, char ret_owner[PORT_OWNER_MAX])
{
    auto_free char *comm = NULL;
    char path[64];
    size_t len;
    auto_fd int fd = -1;

    snprintf(path, sizeof path, "%.20s/comm", pid);
    fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fd_read_all(fd, COMM_MAX, &comm, &len) < 0) {
        snprintf(ret_owner, PORT_OWNER_MAX, "process %.20s", pid);
        return;
    }
    comm[strcspn(comm, "\n")] = '\0';
    utf8_clean(comm);
    snprintf(ret_owner, PORT_OWNER_MAX, "%.40s (pid %.20s)", comm, pid);
}

static bool find_holder(int proc_fd, uint64_t inode, char ret_owner[PORT_OWNER_MAX])
{
    int fd = openat(proc_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    bool found = false;
    char link[64];

    if (!dir) {
        fd_close(fd);
        return false;
    }
    snprintf(link, sizeof link, "socket:[%llu]", (unsigned long long)inode);
    while (!found && (entry = readdir(dir))) {
        found = isdigit((unsigned char)entry->d_name[0]) && has_socket(proc_fd, entry->d_name, link);
        if (found)
            describe(proc_fd, entry->d_name, ret_owner);
    }
    closedir(dir);
    return found;
}

void host_port_owner(const char *proc, const struct port_claim *port, char ret_owner[PORT_OWNER_MAX])
{
    static const char *const tables[][2] = { [PORT_TCP] = { "net/tcp", "net/tcp6" }, [PORT_UDP] = { "net/udp", "net/udp6" } };
    auto_fd int proc_fd = open(proc, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct entry entry;

    ret_owner[0] = '\0';
    if (proc_fd < 0)
        return;
    for (size_t i = 0; i < 2; i++)
        if (find_in(proc_fd, tables[port->proto][i], port, &entry)) {
            if (!find_holder(proc_fd, entry.inode, ret_owner))
                snprintf(ret_owner, PORT_OWNER_MAX, "a process of uid %llu", (unsigned long long)entry.uid);
            return;
        }
}

int host_port_check(const struct port_claim *port, struct err *err)
{
    const struct claims one = { .ports = (struct port_claim *)(uintptr_t)port, .n_ports = 1 };
    char text[CLAIM_TEXT_MAX], owner[PORT_OWNER_MAX];
    int r = host_port_try(port);

    if (r != -EADDRINUSE && r != -EADDRNOTAVAIL)
        return 0; /* whatever it is, QEMU will say it in its own words */
    claim_text(&one, CLAIM_PORT, 0, text);
    if (r == -EADDRNOTAVAIL)
        return err_set(err, EADDRNOTAVAIL, "no-address", "%s can't be listened on: this host has no such address", text);
    host_port_owner("/proc", port, owner);
    if (!*owner)
        return err_set(err, EADDRINUSE, "port-taken", "%s is taken; by whom can't be told, it may be an old connection that lingers", text);
    return err_set(err, EADDRINUSE, "port-taken", "%s is taken by %s", text, owner);
}
