/* Ports of the host: real listeners, and made-up tables of the kernel. */
#include "lib/manager/host_ports.h"

#include <arpa/inet.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/unit/fixture.h"

static struct port_claim claim(const char *addr, uint16_t port, int proto)
{
    struct port_claim c = { .host.port = port, .proto = proto };

    ck_assert_int_eq(inet_pton(AF_INET, addr, &c.host.addr), 1);
    return c;
}

/* A listener on a port that the kernel chooses. */
static int listen_at(int family, int type, const char *addr, uint16_t *ret_port)
{
    struct sockaddr_storage any = { .ss_family = (sa_family_t)family };
    socklen_t len = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
    void *at = family == AF_INET ? (void *)&((struct sockaddr_in *)&any)->sin_addr : (void *)&((struct sockaddr_in6 *)&any)->sin6_addr;
    int fd = socket(family, type | SOCK_CLOEXEC, 0);
    const int on = type == SOCK_STREAM;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0); /* as servers do, QEMU among them */
    ck_assert_int_eq(inet_pton(family, addr, at), 1);
    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&any, len), 0);
    if (type == SOCK_STREAM)
        ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&any, &len), 0);
    *ret_port = ntohs(family == AF_INET ? ((const struct sockaddr_in *)&any)->sin_port : ((const struct sockaddr_in6 *)&any)->sin6_port);
    return fd;
}

static const struct {
    int family, type;
    const char *addr, *asked;
    int proto;
    bool taken;
} listeners[] = {
    { AF_INET, SOCK_STREAM, "127.0.0.1", "127.0.0.1", PORT_TCP, true },
    { AF_INET, SOCK_STREAM, "127.0.0.1", "0.0.0.0", PORT_TCP, true },
    { AF_INET, SOCK_STREAM, "0.0.0.0", "127.0.0.1", PORT_TCP, true },
    { AF_INET, SOCK_STREAM, "127.0.0.1", "127.0.0.2", PORT_TCP, false },
    { AF_INET, SOCK_STREAM, "127.0.0.1", "127.0.0.1", PORT_UDP, false },
    { AF_INET, SOCK_DGRAM, "127.0.0.1", "127.0.0.1", PORT_UDP, true },
    { AF_INET, SOCK_DGRAM, "0.0.0.0", "127.0.0.1", PORT_UDP, true },
    { AF_INET, SOCK_DGRAM, "127.0.0.1", "127.0.0.1", PORT_TCP, false },
    { AF_INET6, SOCK_STREAM, "::", "127.0.0.1", PORT_TCP, true },
    { AF_INET6, SOCK_STREAM, "::ffff:127.0.0.1", "127.0.0.1", PORT_TCP, true },
    { AF_INET6, SOCK_STREAM, "::1", "127.0.0.1", PORT_TCP, false },
};

START_TEST(real)
{
    char owner[PORT_OWNER_MAX], wanted[PORT_OWNER_MAX];
    auto_free char *text = NULL;
    struct err err = ERR_INIT;
    struct port_claim c;
    uint16_t port;
    int fd;

    ck_assert_int_eq(prctl(PR_SET_NAME, "port owner"), 0);
    fd = listen_at(listeners[_i].family, listeners[_i].type, listeners[_i].addr, &port);
    c = claim(listeners[_i].asked, port, listeners[_i].proto);
    ck_assert_int_eq(host_port_try(&c), listeners[_i].taken ? -EADDRINUSE : 0);
    host_port_owner("/proc", &c, owner);
    snprintf(wanted, sizeof wanted, "port owner (pid %d)", (int)getpid());
    ck_assert_str_eq(owner, listeners[_i].taken ? wanted : "");
    ck_assert_int_eq(host_port_check(&c, &err), listeners[_i].taken ? -EADDRINUSE : 0);
    if (listeners[_i].taken) {
        ck_assert_int_eq(str_format(&text, "%s:%d/%s is taken by %s", listeners[_i].asked, port,
                                    listeners[_i].proto == PORT_TCP ? "tcp" : "udp", wanted),
                         0);
        ck_assert_str_eq(err.text, text);
        ck_assert_str_eq(err.id, "port-taken");
    }
    fd_close(fd);
    ck_assert_int_eq(host_port_try(&c), 0);
}
END_TEST

START_TEST(no_such_address)
{
    const struct port_claim c = claim("192.0.2.1", 23456, PORT_TCP); /* of RFC 5737, for documentation */
    struct err err = ERR_INIT;

    ck_assert_int_eq(host_port_check(&c, &err), -EADDRNOTAVAIL);
    ck_assert_str_eq(err.text, "192.0.2.1:23456/tcp can't be listened on: this host has no such address");
}
END_TEST

/* A connection that was closed a moment ago is in nobody's way. */
START_TEST(lingering)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    uint16_t port;
    int fd = listen_at(AF_INET, SOCK_STREAM, "127.0.0.1", &port), client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), served;
    struct port_claim c = claim("127.0.0.1", port, PORT_TCP);

    addr.sin_port = htons(port);
    ck_assert_int_eq(connect(client, (const struct sockaddr *)&addr, sizeof addr), 0);
    served = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    fd_close(served); /* which lingers, since it closed first */
    fd_close(client);
    fd_close(fd);
    ck_assert_int_eq(host_port_try(&c), 0);
}
END_TEST

#define HEAD "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
#define LINE(local, state) \
    "   0: " local " 00000000:0000 " state " 00000000:00000000 00:00000000 00000000    33        0 4711 1 0 100 0 0 10 0\n"

static const struct {
    const char *tcp, *tcp6;
    const char *owner;
} tables[] = {
    { HEAD LINE("0100007F:1F90", "0A"), HEAD, "nginx (pid 812)" },
    { HEAD LINE("0100007F:1F91", "0A") LINE("00000000:1F90", "0A"), HEAD, "nginx (pid 812)" },
    { HEAD LINE("0100007F:1F90", "01"), HEAD, "" }, /* a connection, no listener */
    { HEAD LINE("0200007F:1F90", "0A"), HEAD, "" },
    { HEAD, HEAD LINE("00000000000000000000000000000000:1F90", "0A"), "nginx (pid 812)" },
    { HEAD, HEAD LINE("0000000000000000FFFF00000100007F:1F90", "0A"), "nginx (pid 812)" },
    { HEAD, HEAD LINE("00000000000000000000000001000000:1F90", "0A"), "" },
    { "", "", "" },
    { "rubbish", "   0: :::: 0 0A\n", "" },
    { HEAD LINE("0100007F:1F90X", "0A") LINE("0100007F1F90", "0A") LINE("G100007F:1F90", "0A"), "\n\n   \n", "" },
};

START_TEST(made_up)
{
    const struct port_claim c = claim("127.0.0.1", 8080, PORT_TCP);
    char owner[PORT_OWNER_MAX];

    ck_assert_int_eq(mkdirat(fixture.dir, "net", 0700), 0);
    fixture_write("net/tcp", tables[_i].tcp);
    fixture_write("net/tcp6", tables[_i].tcp6);
    ck_assert_int_eq(mkdirat(fixture.dir, "1", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "812", 0700), 0);
    ck_assert_int_eq(mkdirat(fixture.dir, "812/fd", 0700), 0);
    ck_assert_int_eq(symlinkat("socket:[47110]", fixture.dir, "812/fd/1"), 0);
    ck_assert_int_eq(symlinkat("socket:[4711]", fixture.dir, "812/fd/7"), 0);
    fixture_write("812/comm", "nginx\n");
    host_port_owner(fixture.path, &c, owner);
    ck_assert_str_eq(owner, tables[_i].owner);

    /* Where descriptors can't be read there is still whose process it is. */
    ck_assert_int_eq(unlinkat(fixture.dir, "812/fd/7", 0), 0);
    host_port_owner(fixture.path, &c, owner);
    ck_assert_str_eq(owner, *tables[_i].owner ? "a process of uid 33" : "");
    host_port_owner("/nonexistent", &c, owner);
    ck_assert_str_eq(owner, "");
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, real, 0, ARRAY_LEN(listeners));
    tcase_add_test(tc, no_such_address);
    tcase_add_test(tc, lingering);
    tcase_add_loop_test(tc, made_up, 0, ARRAY_LEN(tables));
}

int main(void) { return fixture_main("host_ports", add_tests); }
