/* What VMs are given and hold: once, durably, and never two the same. */
#include <arpa/inet.h>
#include <sys/socket.h>

#include "lib/qemu/resolve.h"
#include "tests/unit/allocations_fixture.h"

static void refused(struct allocations *a, const char *name, const char *rest, const char *why)
{
    struct err err = ERR_INIT;

    ck_assert_int_eq(start(a, name, rest, &err), -EBUSY);
    ck_assert_str_eq(err.id, "taken");
    ck_assert_str_eq(err.text, why);
}

START_TEST(ids_are_stable)
{
    auto_free char *aside = NULL;
    struct allocations *a = open_allocations(&aside);

    ck_assert_uint_eq(cid_of(a, "a"), CID_FIRST);
    ck_assert_uint_eq(cid_of(a, "b"), CID_FIRST + 1);
    ck_assert_uint_eq(cid_of(a, "a"), CID_FIRST);
    allocations_free(a);

    a = open_allocations(&aside);
    ck_assert_uint_eq(cid_of(a, "b"), CID_FIRST + 1);
    allocations_drop(a, "a");
    allocations_drop(a, "a");
    ck_assert_uint_eq(cid_of(a, "b"), CID_FIRST + 1);
    ck_assert_uint_eq(cid_of(a, "c"), CID_FIRST);
    allocations_free(a);
    ck_assert_ptr_null(aside);
}
END_TEST

/* An id that another has fixed is given to nobody, and one that was given can't be fixed by another. */
START_TEST(fixed_ids)
{
    auto_free char *aside = NULL;
    struct allocations *a = open_allocations(&aside);

    started(a, "fixed", "\"vsock\": {\"cid\": 3}");
    ck_assert_uint_eq(cid_of(a, "a"), 4);
    refused(a, "b", "\"vsock\": {\"cid\": 4}", "/vsock/cid: vsock context id 4 is kept for VM a");
    refused(a, "b", "\"vsock\": {\"cid\": 3}", "/vsock/cid: vsock context id 3 is taken by VM fixed");
    started(a, "b", "\"vsock\": {\"cid\": 5}");
    allocations_free(a);
}
END_TEST

START_TEST(addresses)
{
    auto_free char *aside = NULL, *rest = NULL;
    auto_spec struct spec a1 = { 0 }, b1 = { 0 }, b2 = { 0 };
    struct allocations *a = open_allocations(&aside);
    char mac[MAC_TEXT_MAX], other[MAC_TEXT_MAX];

    network_default_mac("a", 1, 0, mac);
    give(a, "a", "\"network\": [{\"mac\": \"52:54:00:00:00:01\"}, {}]", &a1);
    ck_assert_str_eq(a1.network[0].mac, "52:54:00:00:00:01");
    ck_assert_str_eq(a1.network[1].mac, mac);
    /* Somebody has what b would have had: b has another, and keeps it when that one is gone. */
    network_default_mac("b", 0, 0, mac);
    network_default_mac("b", 0, 1, other);
    ck_assert_int_eq(str_format(&rest, "\"network\": [{\"mac\": \"%s\"}]", mac), 0);
    started(a, "c", rest);
    give(a, "b", "\"network\": [{}]", &b1);
    ck_assert_str_eq(b1.network[0].mac, other);
    allocations_drop(a, "c");
    allocations_commit(a);
    allocations_free(a);
    a = open_allocations(&aside);
    give(a, "b", "\"network\": [{}]", &b2);
    ck_assert_str_eq(b2.network[0].mac, other);
    allocations_free(a);
}
END_TEST

#define AUTO(addr, guest, proto) "{\"host\": \"" addr "auto\", \"guest\": " #guest ", \"proto\": \"" proto "\"}"

static const char *host_of(const struct spec *spec, size_t i) { return spec->network[0].forward[i].host; }

START_TEST(ports)
{
    auto_free char *aside = NULL;
    auto_spec struct spec one = { 0 }, two = { 0 }, again = { 0 }, three = { 0 };
    struct allocations *a = open_allocations(&aside);

    give(a, "a", "\"network\": [{\"forward\": [" AUTO("127.0.0.1:", 80, "tcp") ", " AUTO("", 80, "udp") "]}]", &one);
    ck_assert_str_eq(host_of(&one, 0), "127.0.0.1:23000");
    ck_assert_str_eq(host_of(&one, 1), "0.0.0.0:23000");
    give(a, "b", "\"network\": [{\"forward\": [" AUTO("", 80, "tcp") ", " AUTO("127.0.0.2:", 80, "tcp") "]}]", &two);
    ck_assert_str_eq(host_of(&two, 0), "0.0.0.0:23001");
    ck_assert_str_eq(host_of(&two, 1), "127.0.0.2:23000");
    allocations_drop(a, "b");
    allocations_free(a);

    /* By what it leads to, whatever its place. */
    a = open_allocations(&aside);
    give(a, "a",
         "\"network\": [{\"forward\": [{\"host\": \"127.0.0.1:9\", \"guest\": 9}, " AUTO("", 80, "udp") ", " AUTO(
             "127.0.0.1:", 81, "tcp") ", " AUTO("127.0.0.1:", 80, "tcp") "]}]",
         &again);
    ck_assert_str_eq(host_of(&again, 1), "0.0.0.0:23000");
    ck_assert_str_eq(host_of(&again, 2), "127.0.0.1:23002"); /* b's were never said to be free on disk */
    ck_assert_str_eq(host_of(&again, 3), "127.0.0.1:23000");

    /* A fixed one in between isn't given. */
    started(a, "c", "\"network\": [{\"forward\": [{\"host\": \"127.0.0.1:23003\", \"guest\": 9}]}]");
    give(a, "d", "\"network\": [{\"forward\": [" AUTO("", 1, "tcp") "]}]", &three);
    ck_assert_str_eq(host_of(&three, 0), "0.0.0.0:23004");
    refused(a, "e", "\"network\": [{\"forward\": [{\"host\": \"127.0.0.1:23004\", \"guest\": 9}]}]",
            "/network/0/forward/0/host: 127.0.0.1:23004/tcp is kept for VM d (0.0.0.0:23004/tcp)");
    allocations_free(a);
}
END_TEST

/* A listener on a port that the kernel chooses. */
static int listen_somewhere(uint16_t *ret_port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t len = sizeof addr;

    ck_assert_int_eq(bind(fd, (const struct sockaddr *)&addr, sizeof addr), 0);
    ck_assert_int_eq(listen(fd, 1), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
    *ret_port = ntohs(addr.sin_port);
    return fd;
}

/* Not one that somebody on the host has; and when all are taken, that is said. */
START_TEST(ports_of_the_host)
{
    auto_free char *aside = NULL, *why = NULL, *host = NULL;
    auto_spec struct spec one = { 0 }, more = { 0 };
    struct allocations *a = open_allocations(&aside);
    struct err err = ERR_INIT;
    uint16_t port;
    int fd = listen_somewhere(&port);
    const struct port_range only = { port, port };

    ck_assert_int_eq(
        str_format(&why, "/network/0/forward/0/host: no port from %d to %d is free (\"ports\" in the host config)", port, port), 0);
    ck_assert_int_eq(str_format(&host, "127.0.0.1:%d", port), 0);
    load("a", "\"network\": [{\"forward\": [" AUTO("127.0.0.1:", 80, "tcp") "]}]", &one);
    ck_assert_int_eq(allocations_give(a, &one, &only, &err), -ENOSPC);
    ck_assert_str_eq(err.text, why);
    fd_close(fd);
    ck_assert_int_eq(allocations_give(a, &one, &only, NULL), 0);
    ck_assert_str_eq(host_of(&one, 0), host);
    load("b", "\"network\": [{\"forward\": [" AUTO("127.0.0.1:", 80, "tcp") "]}]", &more);
    ck_assert_int_eq(allocations_give(a, &more, &only, NULL), -ENOSPC);
    allocations_free(a);
}
END_TEST

START_TEST(trying_gives_nothing)
{
    auto_free char *aside = NULL;
    auto_spec struct spec tried = { 0 }, given = { 0 };
    struct allocations *a = open_allocations(&aside);

    load("a", "\"vsock\": {}, \"network\": [{\"forward\": [" AUTO("", 80, "tcp") "]}]", &tried);
    ck_assert_int_eq(allocations_try(a, &tried, &range, NULL), 0);
    ck_assert_uint_eq(tried.vsock.cid, CID_FIRST);
    ck_assert_str_eq(host_of(&tried, 0), "0.0.0.0:23000");
    ck_assert_int_eq(allocations_commit(a), 0);
    ck_assert(!fixture_exists("allocations.json"));
    give(a, "b", "\"vsock\": {}, \"network\": [{\"forward\": [" AUTO("", 80, "tcp") "]}]", &given);
    ck_assert_uint_eq(given.vsock.cid, CID_FIRST);
    allocations_free(a);
}
END_TEST

START_TEST(who_comes_later)
{
    auto_free char *aside = NULL;
    struct allocations *a = open_allocations(&aside);
    struct err err = ERR_INIT;

    started(a, "web", PORT("127.0.0.1:23005"));
    refused(a, "mail", PORT("0.0.0.0:23005"), "/network/0/forward/0/host: 0.0.0.0:23005/tcp is taken by VM web (127.0.0.1:23005/tcp)");
    /* Again for itself, with the same and with another. */
    started(a, "web", PORT("127.0.0.1:23005"));
    started(a, "web", PORT("127.0.0.1:23006"));
    started(a, "mail", PORT("0.0.0.0:23005"));
    ck_assert_int_eq(start(a, "web", PORT("127.0.0.1:23005"), &err), -EBUSY);
    allocations_free(a);

    /* Another manager knows. */
    a = open_allocations(&aside);
    refused(a, "other", PORT("23006"), "/network/0/forward/0/host: 0.0.0.0:23006/tcp is taken by VM web (127.0.0.1:23006/tcp)");
    ck_assert(allocations_set_active(a, "web", false));
    ck_assert(!allocations_set_active(a, "web", false));
    ck_assert(!allocations_set_active(a, "nobody", false));
    started(a, "other", PORT("23006"));
    /* Nothing is known of mail when all has been told. */
    ck_assert(allocations_holds(a, "mail"));
    allocations_settle(a);
    ck_assert(!allocations_holds(a, "mail"));
    ck_assert(allocations_holds(a, "other"));
    allocations_free(a);
}
END_TEST

START_TEST(devices)
{
    auto_free char *aside = NULL;
    struct allocations *a = open_allocations(&aside);

    started(a, "one", "\"gpus\": [\"c1:00.0\", \"c2:00.0\"]");
    refused(a, "two", "\"gpus\": [\"c3:00.0\", \"0000:c2:00.0\"]", "/gpus/1: GPU 0000:c2:00.0 is taken by VM one");
    started(a, "two", "\"gpus\": [\"c3:00.0\"]");
    allocations_free(a);
}
END_TEST

static void count_problems(void *arg, const struct err *err)
{
    ck_assert_str_eq(err->id, "taken");
    ++*(int *)arg;
}

/* All of them are told, and before anything is given. */
START_TEST(every_conflict)
{
    auto_free char *aside = NULL;
    auto_claims struct claims claims = { 0 };
    auto_spec struct spec spec = { 0 };
    struct allocations *a = open_allocations(&aside);
    int n = 0;

    started(a, "a", "\"gpus\": [\"c1:00.0\"], " PORT("23007"));
    started(a, "b", "\"vsock\": {\"cid\": 77}");
    load("c", "\"gpus\": [\"c1:00.0\"], \"vsock\": {\"cid\": 77}, " PORT("127.0.0.1:23007"), &spec);
    ck_assert_int_eq(claims_from_spec(&spec, &claims), 0);
    ck_assert_int_eq(allocations_check(a, "c", &claims, false, count_problems, &n), 3);
    ck_assert_int_eq(n, 3);
    ck_assert_int_eq(allocations_check(a, "c", &claims, false, NULL, NULL), 3);
    allocations_free(a);
}
END_TEST

/* What its spec doesn't ask for any more is others', once it was started without. */
START_TEST(no_longer_asked_for)
{
    auto_free char *aside = NULL;
    auto_spec struct spec spec = { 0 };
    struct allocations *a = open_allocations(&aside);

    started(a, "a", "\"vsock\": {}, \"network\": [{\"forward\": [" AUTO("", 80, "tcp") "]}]");
    started(a, "a", "\"network\": [{\"mac\": \"52:54:00:00:00:09\"}]");
    give(a, "b", "\"vsock\": {}, \"network\": [{\"forward\": [" AUTO("", 80, "tcp") "]}]", &spec);
    ck_assert_uint_eq(spec.vsock.cid, CID_FIRST);
    ck_assert_str_eq(host_of(&spec, 0), "0.0.0.0:23000");
    allocations_free(a);
}
END_TEST

START_TEST(room)
{
    static const struct host_limits limits = { .memory = UINT64_C(3) << 30 };
    struct admission admission = { .limits = &limits, .disk_free = UINT64_MAX };
    auto_free char *aside = NULL;
    auto_claims struct claims big = { 0 };
    auto_spec struct spec spec = { 0 };
    struct allocations *a = open_allocations(&aside);
    struct err err = ERR_INIT;
    bool freed = false;

    started(a, "a", "");
    started(a, "b", "");
    give(a, "c", "", &spec);
    ck_assert_int_eq(claims_from_spec(&spec, &big), 0);
    big.memory = UINT64_C(2) << 30;
    ck_assert_int_eq(allocations_admit(a, "c", &big, &admission, NULL), -EDQUOT);
    ck_assert_int_eq(allocations_take(a, "c", &big, &admission, &freed, &err), -EDQUOT);
    ck_assert_str_eq(err.id, "no-room");
    ck_assert(!allocations_holds(a, "c"));
    allocations_set_active(a, "b", false);
    ck_assert_int_eq(allocations_take(a, "c", &big, &admission, &freed, &err), 0);
    ck_assert(!freed);
    ck_assert_ptr_null(big.macs);
    allocations_free(a);
}
END_TEST

START_TEST(shown)
{
    auto_free char *aside = NULL;
    auto_json json_t *given = NULL, *held = NULL;
    struct allocations *a = open_allocations(&aside);
    auto_spec struct spec spec = { 0 };

    ck_assert_ptr_null(allocations_show(a, "a"));
    give(a, "a", "\"network\": [{\"mac\": \"52:54:00:00:00:09\", \"forward\": [" AUTO("", 80, "udp") "]}]", &spec);
    given = allocations_show(a, "a");
    ck_assert_uint_eq(json_array_size(json_object_get(given, "macs")), 0);
    ck_assert_uint_eq(json_array_size(json_object_get(given, "forwards")), 1);
    started(a, "a", "\"network\": [{\"mac\": \"52:54:00:00:00:09\", \"forward\": [" AUTO("", 80, "udp") "]}], \"vsock\": {\"cid\": 5}");
    held = allocations_show(a, "a");
    ck_assert_int_eq(json_integer_value(json_object_get(held, "cid")), 5);
    ck_assert_str_eq(json_string_value(json_array_get(json_object_get(held, "macs"), 0)), "52:54:00:00:00:09");
    ck_assert_str_eq(json_string_value(json_object_get(json_array_get(json_object_get(held, "forwards"), 0), "host")), "0.0.0.0:23000");
    allocations_free(a);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, ids_are_stable);
    tcase_add_test(tc, fixed_ids);
    tcase_add_test(tc, addresses);
    tcase_add_test(tc, ports);
    tcase_add_test(tc, ports_of_the_host);
    tcase_add_test(tc, trying_gives_nothing);
    tcase_add_test(tc, who_comes_later);
    tcase_add_test(tc, devices);
    tcase_add_test(tc, every_conflict);
    tcase_add_test(tc, no_longer_asked_for);
    tcase_add_test(tc, room);
    tcase_add_test(tc, shown);
}

int main(void) { return fixture_main("allocations", add_tests); }
