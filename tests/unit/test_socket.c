#include "lib/base/socket.h"

#include <grp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "tests/unit/fixture.h"

static int accept_one(int listener)
{
    fixture_await(listener, POLLIN);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    return fd;
}

/* A byte goes through. */
static void assert_connected(int listener, int client)
{
    auto_fd int server = accept_one(listener);
    char byte = 0;
    ck_assert_int_eq(write(client, "x", 1), 1);
    ck_assert_int_eq(read(server, &byte, 1), 1);
    ck_assert_int_eq(byte, 'x');
}

START_TEST(listen_and_connect)
{
    umask(077);
    auto_fd int listener = socket_listen(fixture.dir, "s.sock", 0666, 8);
    ck_assert_int_ge(listener, 0);
    struct stat st;
    ck_assert_int_eq(fstatat(fixture.dir, "s.sock", &st, 0), 0);
    ck_assert_uint_eq(st.st_mode & 0777, 0666);
    ck_assert_int_eq(fcntl(listener, F_GETFD), FD_CLOEXEC);
    ck_assert(fcntl(listener, F_GETFL) & O_NONBLOCK);
    auto_fd int client = socket_connect(fixture.dir, "s.sock");
    ck_assert_int_ge(client, 0);
    ck_assert_int_eq(fcntl(client, F_GETFD), FD_CLOEXEC);
    ck_assert(fcntl(client, F_GETFL) & O_NONBLOCK);
    assert_connected(listener, client);
    auto_free char *path = NULL;
    ck_assert_int_eq(str_format(&path, "%s/s.sock", fixture.path), 0);
    auto_fd int by_path = socket_connect_path(path);
    ck_assert_int_ge(by_path, 0);
    assert_connected(listener, by_path);
    /* A short path is bound as it is, so that people find it in the output of ss. */
    struct sockaddr_un address;
    socklen_t len = sizeof(address);
    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
    ck_assert_str_eq(address.sun_path, path);
}
END_TEST

START_TEST(paths_of_any_length)
{
    auto_free char *path = NULL;
    char name[120];
    memset(name, 'd', sizeof(name) - 1);
    name[sizeof(name) - 1] = '\0';
    ck_assert_int_eq(str_format(&path, "%s/%s/%s", fixture.path, name, name), 0);
    ck_assert_int_eq(dir_make(path, 0700, NULL), 0);
    auto_fd int deep = dir_open(AT_FDCWD, path);
    ck_assert_int_ge(deep, 0);
    auto_fd int listener = socket_listen(deep, "shim.sock", 0600, 8);
    ck_assert_int_ge(listener, 0);
    auto_fd int client = socket_connect(deep, "shim.sock");
    ck_assert_int_ge(client, 0);
    assert_connected(listener, client);
    auto_free char *socket_path = NULL;
    ck_assert_int_eq(str_format(&socket_path, "%s/shim.sock", path), 0);
    auto_fd int by_path = socket_connect_path(socket_path);
    ck_assert_int_ge(by_path, 0);
    assert_connected(listener, by_path);
    ck_assert_int_eq(socket_connect(deep, name), -ENAMETOOLONG);
    ck_assert_int_eq(socket_listen(deep, name, 0600, 8), -ENAMETOOLONG);
    ck_assert_int_eq(socket_connect_path(name), -ENAMETOOLONG); /* no folder to open */
}
END_TEST

START_TEST(an_old_socket_is_replaced_and_a_file_is_not)
{
    int old = socket_listen(fixture.dir, "s", 0600, 8);
    ck_assert_int_ge(old, 0);
    fd_close(old);
    ck_assert_int_eq(socket_connect(fixture.dir, "s"), -ECONNREFUSED);
    auto_fd int listener = socket_listen(fixture.dir, "s", 0600, 8);
    ck_assert_int_ge(listener, 0);
    auto_fd int client = socket_connect(fixture.dir, "s");
    ck_assert_int_ge(client, 0);
    fixture_write("file", "precious");
    ck_assert_int_eq(socket_listen(fixture.dir, "file", 0600, 8), -EEXIST);
    fixture_assert_content("file", "precious");
    ck_assert_int_eq(symlinkat("s", fixture.dir, "link"), 0);
    ck_assert_int_eq(socket_listen(fixture.dir, "link", 0600, 8), -EEXIST);
}
END_TEST

START_TEST(connect_never_waits)
{
    ck_assert_int_eq(socket_connect(fixture.dir, "none"), -ENOENT);
    ck_assert_int_eq(socket_connect(fixture.dir, ""), -ECONNREFUSED);
    ck_assert_int_eq(socket_connect_path(""), -EINVAL);
    ck_assert_int_eq(socket_listen(fixture.dir, "", 0600, 8), -EINVAL);
    ck_assert_int_eq(socket_listen(fixture.dir, "../s", 0600, 8), -EINVAL);
    auto_fd int listener = socket_listen(fixture.dir, "s", 0600, 0);
    ck_assert_int_ge(listener, 0);
    auto_fd int first = socket_connect(fixture.dir, "s");
    ck_assert_int_ge(first, 0);
    ck_assert_int_eq(socket_connect(fixture.dir, "s"), -EAGAIN);
}
END_TEST

START_TEST(peer_is_who_connected)
{
    auto_fd int listener = socket_listen(fixture.dir, "s", 0600, 8);
    auto_fd int client = socket_connect(fixture.dir, "s");
    ck_assert_int_ge(client, 0);
    auto_fd int server = accept_one(listener);
    struct socket_peer peer = { 0 };
    ck_assert_int_eq(socket_peer(server, &peer), 0);
    ck_assert_int_eq(peer.pid, getpid());
    ck_assert_uint_eq(peer.uid, geteuid());
    ck_assert_uint_eq(peer.gid, getegid());
    ck_assert(socket_peer_in_group(server, &peer, getegid()));
    ck_assert(!socket_peer_in_group(server, &peer, 4242));
    auto_fd int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(socket_peer(null, &peer), -ENOTSOCK);
    auto_fd int unconnected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ck_assert_int_lt(socket_peer(unconnected, &peer), 0);
}
END_TEST

START_TEST(supplementary_groups_count)
{
    if (geteuid() != 0) {
        fputs("not root: can't take groups\n", stderr);
        return;
    }
    enum { MANY = 300 }; /* more than fit the first guess */
    gid_t groups[MANY];
    for (gid_t i = 0; i < MANY; i++)
        groups[i] = 7000 + i;
    ck_assert_int_eq(setgroups(MANY, groups), 0);
    auto_fd int listener = socket_listen(fixture.dir, "s", 0600, 8);
    auto_fd int client = socket_connect(fixture.dir, "s");
    ck_assert_int_ge(client, 0);
    auto_fd int server = accept_one(listener);
    struct socket_peer peer = { 0 };
    ck_assert_int_eq(socket_peer(server, &peer), 0);
    ck_assert(socket_peer_in_group(server, &peer, 7000));
    ck_assert(socket_peer_in_group(server, &peer, 7000 + MANY - 1));
    ck_assert(!socket_peer_in_group(server, &peer, 7000 + MANY));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, listen_and_connect);
    tcase_add_test(tc, paths_of_any_length);
    tcase_add_test(tc, an_old_socket_is_replaced_and_a_file_is_not);
    tcase_add_test(tc, connect_never_waits);
    tcase_add_test(tc, peer_is_who_connected);
    tcase_add_test(tc, supplementary_groups_count);
}

int main(void) { return fixture_main("socket", add_tests); }
