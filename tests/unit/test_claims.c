/* What specs claim of the host, and which claims are in each other's way. */
#include "lib/spec/claims.h"

#include <arpa/inet.h>

#include "lib/spec/load.h"
#include "tests/unit/fixture.h"

static void load(const char *text, struct spec *ret_spec)
{
    auto_json json_t *json = NULL;
    struct err err = ERR_INIT;

    ck_assert_msg(json_parse(text, strlen(text), &json, &err) == 0, "%s", err.text);
    ck_assert_int_eq(spec_load(json, &(struct spec_reader){ .arg = NULL }, ret_spec), 0);
}

static void claims_of(const char *rest, struct claims *ret_claims)
{
    auto_free char *text = NULL;
    auto_spec struct spec spec = { 0 };

    ck_assert_int_eq(str_format(&text, "{\"name\": \"a\", \"memory\": \"1G\", \"cpus\": 3, \"boot\": {\"kernel\": \"/k\"}, %s}", rest), 0);
    load(text, &spec);
    ck_assert_int_eq(claims_from_spec(&spec, ret_claims), 0);
}

#define NET(...) "\"network\": [{" __VA_ARGS__ "}]"
#define FORWARD(host, proto) "\"forward\": [{\"host\": \"" host "\", \"guest\": 80, \"proto\": \"" proto "\"}]"

/* Each pair, and what both claim: by the index of the kind, -1 for nothing. */
static const struct {
    const char *mine, *theirs;
    int kind;
} matrix[] = {
    { NET(FORWARD("127.0.0.1:80", "tcp")), NET(FORWARD("127.0.0.1:80", "tcp")), CLAIM_PORT },
    { NET(FORWARD("127.0.0.1:80", "tcp")), NET(FORWARD("127.0.0.1:80", "udp")), -1 },
    { NET(FORWARD("127.0.0.1:80", "udp")), NET(FORWARD("127.0.0.1:80", "udp")), CLAIM_PORT },
    { NET(FORWARD("127.0.0.1:80", "tcp")), NET(FORWARD("127.0.0.1:81", "tcp")), -1 },
    { NET(FORWARD("127.0.0.1:80", "tcp")), NET(FORWARD("127.0.0.2:80", "tcp")), -1 },
    { NET(FORWARD("127.0.0.1:80", "tcp")), NET(FORWARD("0.0.0.0:80", "tcp")), CLAIM_PORT },
    { NET(FORWARD(":80", "tcp")), NET(FORWARD("10.0.0.1:80", "tcp")), CLAIM_PORT },
    { NET(FORWARD("80", "tcp")), NET(FORWARD("80", "tcp")), CLAIM_PORT },
    { NET(FORWARD("127.0.0.1:auto", "tcp")), NET(FORWARD("127.0.0.1:auto", "tcp")), -1 },
    { NET(FORWARD("auto", "tcp")), NET(FORWARD("127.0.0.1:80", "tcp")), -1 },
    { NET("\"mac\": \"52:54:00:00:00:01\""), NET("\"mac\": \"52:54:00:00:00:01\""), CLAIM_MAC },
    { NET("\"mac\": \"52:54:00:00:00:0A\""), NET("\"mac\": \"52:54:00:00:00:0a\""), CLAIM_MAC },
    { NET("\"mac\": \"52:54:00:00:00:01\""), NET("\"mac\": \"52:54:00:00:00:02\""), -1 },
    { NET(""), NET(""), -1 },
    { "\"vsock\": {\"cid\": 7}", "\"vsock\": {\"cid\": 7}", CLAIM_CID },
    { "\"vsock\": {\"cid\": 7}", "\"vsock\": {\"cid\": 8}", -1 },
    { "\"vsock\": {}", "\"vsock\": {}", -1 },
    { "\"gpus\": [\"c1:00.0\"]", "\"gpus\": [\"0000:C1:00.0\"]", CLAIM_GPU },
    { "\"gpus\": [\"c1:00.0\"]", "\"gpus\": [\"c2:00.0\"]", -1 },
    { "\"gpus\": [\"c1:00.0\", \"c2:00.0\"]", "\"gpus\": [\"c3:00.0\", \"c2:00.0\"]", CLAIM_GPU },
};

static void note_kind(void *arg, const struct conflict *conflict) { *(int *)arg = (int)conflict->kind; }

START_TEST(compared)
{
    for (int swapped = 0; swapped < 2; swapped++) {
        auto_claims struct claims mine = { 0 }, theirs = { 0 };
        int kind = -1, n;

        claims_of(swapped ? matrix[_i].theirs : matrix[_i].mine, &mine);
        claims_of(swapped ? matrix[_i].mine : matrix[_i].theirs, &theirs);
        n = claims_compare(&mine, &theirs, note_kind, &kind);
        ck_assert_int_eq(kind, matrix[_i].kind);
        ck_assert_int_eq(n, matrix[_i].kind < 0 ? 0 : 1);
    }
}
END_TEST

START_TEST(amounts)
{
    auto_claims struct claims claims = { 0 };

    claims_of("\"disks\": [{\"name\": \"a\", \"size\": \"1G\"}, {\"name\": \"b\", \"size\": \"2G\"}, {\"path\": \"/srv/x\"}]", &claims);
    ck_assert_uint_eq(claims.cpus, 3);
    ck_assert_uint_eq(claims.memory, UINT64_C(1) << 30);
    ck_assert_uint_eq(claims.disk, UINT64_C(3) << 30);
}
END_TEST

static void words(const struct claims *claims, enum claim_kind kind, size_t i, bool spvm, const char *pointer, const char *text)
{
    char got[CLAIM_TEXT_MAX];

    claim_pointer(claims, kind, i, spvm, got);
    ck_assert_str_eq(got, pointer);
    claim_text(claims, kind, i, got);
    ck_assert_str_eq(got, text);
}

START_TEST(told)
{
    auto_claims struct claims claims = { 0 };

    claims_of("\"network\": [{}, {\"mac\": \"52:54:00:00:00:01\", \"forward\": [{\"host\": \"auto\", \"guest\": 1}, "
              "{\"host\": \"5300\", \"guest\": 443, \"proto\": \"udp\"}]}], \"vsock\": {\"cid\": 9}, \"gpus\": [\"c1:00.0\"]",
              &claims);
    words(&claims, CLAIM_PORT, 0, false, "/network/1/forward/0/host", "0.0.0.0:auto/tcp");
    words(&claims, CLAIM_PORT, 0, true, "/qemu_configuration/ip_address", "0.0.0.0:auto/tcp");
    words(&claims, CLAIM_PORT, 1, false, "/network/1/forward/1/host", "0.0.0.0:5300/udp");
    words(&claims, CLAIM_PORT, 1, true, "/qemu_configuration/https_port", "0.0.0.0:5300/udp");
    words(&claims, CLAIM_MAC, 1, false, "/network/1/mac", "MAC address 52:54:00:00:00:01");
    words(&claims, CLAIM_MAC, 1, true, "/qemu_configuration/mac_address", "MAC address 52:54:00:00:00:01");
    words(&claims, CLAIM_CID, 0, false, "/vsock/cid", "vsock context id 9");
    words(&claims, CLAIM_CID, 0, true, "/qemu_configuration/guest_cid", "vsock context id 9");
    words(&claims, CLAIM_GPU, 0, false, "/gpus/0", "GPU 0000:c1:00.0");
    words(&claims, CLAIM_GPU, 0, true, "/qemu_configuration/gpus/0", "GPU 0000:c1:00.0");
}
END_TEST

static const struct {
    const char *text;
    bool yes;
    const char *addr;
} hosts[] = {
    { "auto", true, "0.0.0.0" },
    { ":auto", true, "0.0.0.0" },
    { "127.0.0.1:auto", true, "127.0.0.1" },
    { "0.0.0.0:auto", true, "0.0.0.0" },
    { "127.0.0.1:80", false, 0 },
    { "80", false, 0 },
    { "127.0.0.1:automatic", false, 0 },
    { "localhost:auto", false, 0 },
    { "1.2.3:auto", false, 0 },
    { "", false, 0 },
    { ":", false, 0 },
    { "127.0.0.1:auto ", false, 0 },
    { "AUTO", false, 0 },
    { "::1:auto", false, 0 },
    { "1111.1111.1111.1111.1:auto", false, 0 },
};

START_TEST(left_to_us)
{
    struct in_addr addr = { .s_addr = 0x55555555 };
    char text[INET_ADDRSTRLEN];

    ck_assert_int_eq(host_port_is_auto(hosts[_i].text, &addr), hosts[_i].yes);
    if (hosts[_i].yes)
        ck_assert_str_eq(inet_ntop(AF_INET, &addr, text, sizeof text), hosts[_i].addr);
    else
        ck_assert_uint_eq(addr.s_addr, 0x55555555);
}
END_TEST

/* What is written down comes back the same. */
START_TEST(recorded)
{
    auto_claims struct claims claims = { 0 }, read = { 0 };
    auto_json json_t *json = NULL, *again = NULL;
    int kind = -1;

    claims_of("\"network\": [{\"mac\": \"52:54:00:00:00:01\", \"forward\": [{\"host\": \"127.0.0.1:80\", \"guest\": 1}]}], "
              "\"vsock\": {\"cid\": 9}, \"gpus\": [\"c1:00.0\"]",
              &claims);
    ck_assert_int_eq(record_emit(&claims_type, &claims, &json), 0);
    ck_assert_int_eq(record_parse(&claims_type, json, RECORD_STRICT, &read, NULL), 0);
    ck_assert_int_eq(record_emit(&claims_type, &read, &again), 0);
    ck_assert(json_equal(json, again));
    ck_assert_int_eq(claims_compare(&claims, &read, note_kind, &kind), 4);
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_loop_test(tc, compared, 0, ARRAY_LEN(matrix));
    tcase_add_test(tc, amounts);
    tcase_add_test(tc, told);
    tcase_add_loop_test(tc, left_to_us, 0, ARRAY_LEN(hosts));
    tcase_add_test(tc, recorded);
}

int main(void) { return fixture_main("claims", add_tests); }
