#include "lib/base/parse.h"

#include <arpa/inet.h>

#include "tests/unit/fixture.h"

START_TEST(u64)
{
    static const struct {
        const char *text;
        uint64_t min, max;
        int r;
        uint64_t value;
    } cases[] = {
        { "0", 0, UINT64_MAX, 0, 0 },
        { "18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX },
        { "18446744073709551616", 0, UINT64_MAX, -ERANGE, 0 },
        { "99999999999999999999999", 0, UINT64_MAX, -ERANGE, 0 },
        { "5", 5, 5, 0, 5 },
        { "4", 5, 9, -ERANGE, 0 },
        { "10", 5, 9, -ERANGE, 0 },
        { "007", 0, 9, 0, 7 },
        { "", 0, 9, -EINVAL, 0 },
        { " 1", 0, 9, -EINVAL, 0 },
        { "1 ", 0, 9, -EINVAL, 0 },
        { "+1", 0, 9, -EINVAL, 0 },
        { "-1", 0, 9, -EINVAL, 0 },
        { "0x1", 0, 9, -EINVAL, 0 },
        { "1.0", 0, 9, -EINVAL, 0 },
        { "99999999999999999999999x", 0, 9, -EINVAL, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t value = 4711;
        ck_assert_msg(parse_u64(cases[i].text, cases[i].min, cases[i].max, &value) == cases[i].r, "\"%s\"", cases[i].text);
        ck_assert_uint_eq(value, cases[i].r == 0 ? cases[i].value : 4711);
    }
}
END_TEST

struct text_case {
    const char *text;
    int r;
    uint64_t value;
};

static void try_cases(const struct text_case *cases, size_t n, int (*parse)(const char *, uint64_t *))
{
    for (size_t i = 0; i < n; i++) {
        uint64_t value = 4711;
        int r = parse(cases[i].text, &value);
        ck_assert_msg(r == cases[i].r, "\"%s\" gave %d", cases[i].text, r);
        ck_assert_msg(value == (r == 0 ? cases[i].value : 4711), "\"%s\" gave %" PRIu64, cases[i].text, value);
    }
}

START_TEST(size)
{
    static const struct text_case cases[] = {
        { "4096", 0, 4096 },
        { "0", 0, 0 },
        { "1B", 0, 1 },
        { "512M", 0, UINT64_C(512) << 20 },
        { "2G", 0, UINT64_C(2) << 30 },
        { "20GiB", 0, UINT64_C(20) << 30 },
        { "3KB", 0, 3072 },
        { "1T", 0, UINT64_C(1) << 40 },
        { "16777215T", 0, UINT64_C(16777215) << 40 },
        { "16777216T", -ERANGE, 0 },
        { "18446744073709551616", -ERANGE, 0 },
        { "", -EINVAL, 0 },
        { "G", -EINVAL, 0 },
        { "2g", -EINVAL, 0 },
        { "1.5G", -EINVAL, 0 },
        { "-1G", -EINVAL, 0 },
        { "2 G", -EINVAL, 0 },
        { "2Gi", -EINVAL, 0 },
        { "2iB", -EINVAL, 0 },
        { "2GBx", -EINVAL, 0 },
        { "2P", -EINVAL, 0 },
        { "99999999999999999999X", -EINVAL, 0 },
    };
    try_cases(cases, ARRAY_LEN(cases), parse_size);
}
END_TEST

START_TEST(size_format_is_exact)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {
        { 0, "0" },
        { 1, "1" },
        { 1023, "1023" },
        { 1024, "1K" },
        { 1025, "1025" },
        { UINT64_C(1536) << 20, "1536M" },
        { UINT64_C(2) << 30, "2G" },
        { UINT64_C(1) << 40, "1T" },
        { UINT64_C(1) << 50, "1024T" },
        { UINT64_MAX, "18446744073709551615" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char buf[SIZE_TEXT_MAX];
        ck_assert_str_eq(format_size(cases[i].bytes, buf), cases[i].text);
        uint64_t back = 0;
        ck_assert_int_eq(parse_size(buf, &back), 0);
        ck_assert_uint_eq(back, cases[i].bytes);
    }
}
END_TEST

START_TEST(duration)
{
    static const struct text_case cases[] = {
        { "0", 0, 0 },
        { "500ms", 0, 500 },
        { "10s", 0, 10000 },
        { "5m", 0, 300000 },
        { "1h", 0, 3600000 },
        { "1d", 0, 86400000 },
        { "1h30m", 0, 5400000 },
        { "1d2h3m4s5ms", 0, 93784005 },
        { "1m5ms", 0, 60005 },
        { "90m", 0, 5400000 },
        { "0s", 0, 0 },
        { "213503982334d14h25m51s615ms", 0, UINT64_MAX },
        { "213503982334d14h25m51s616ms", -ERANGE, 0 },
        { "99999999999999999999s", -ERANGE, 0 },
        { "", -EINVAL, 0 },
        { "10", -EINVAL, 0 },
        { "s", -EINVAL, 0 },
        { "10 s", -EINVAL, 0 },
        { "-1s", -EINVAL, 0 },
        { "1.5s", -EINVAL, 0 },
        { "1s1", -EINVAL, 0 },
        { "30m1h", -EINVAL, 0 },
        { "1m1m", -EINVAL, 0 },
        { "1w", -EINVAL, 0 },
        { "1sm", -EINVAL, 0 },
        { "1S", -EINVAL, 0 },
    };
    try_cases(cases, ARRAY_LEN(cases), parse_duration);
}
END_TEST

START_TEST(duration_format_is_exact)
{
    static const struct {
        uint64_t ms;
        const char *text;
    } cases[] = {
        { 0, "0" }, { 500, "500ms" }, { 5400000, "1h30m" }, { 1001, "1s1ms" }, { UINT64_MAX, "213503982334d14h25m51s615ms" },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        char buf[DURATION_TEXT_MAX];
        ck_assert_str_eq(format_duration(cases[i].ms, buf), cases[i].text);
        uint64_t back = 1;
        ck_assert_int_eq(parse_duration(buf, &back), 0);
        ck_assert_uint_eq(back, cases[i].ms);
    }
}
END_TEST

START_TEST(pci_address)
{
    static const char *const bad[] = {
        "",           "c1",           "c1:00",       "c1:00.8",       "c1:00.0 ", " c1:00.0",        "c1-00.0",
        "g1:00.0",    "0000:c1:00.8", "0000:c1:00.", "00000:c1:00.0", ":c1:00.0", "../0000:c1:00.0", "c1:0.0",
        "0000c1:00.0"
    };
    char address[PCI_TEXT_MAX] = "untouched";

    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(parse_pci_address(bad[i], address) == -EINVAL, "\"%s\"", bad[i]);
    ck_assert_str_eq(address, "untouched");
    ck_assert_int_eq(parse_pci_address("C1:0a.7", address), 0);
    ck_assert_str_eq(address, "0000:c1:0a.7");
    ck_assert_int_eq(parse_pci_address("0001:Ff:1F.0", address), 0);
    ck_assert_str_eq(address, "0001:ff:1f.0");
}
END_TEST

START_TEST(mac_address)
{
    char mac[MAC_TEXT_MAX] = "untouched";
    static const char *const bad[] = {
        "",
        "52:54:00:12:34",
        "52:54:00:12:34:56:",
        "52:54:00:12:34:56:78",
        "52-54-00-12-34-56",
        "5:54:00:12:34:56",
        "52:54:00:12:34:5g",
        "525400123456",
        "01:00:5e:00:00:01",
        "ff:ff:ff:ff:ff:ff",
        "00:00:00:00:00:00",
        "52:54:00:12:34:5",
        " 52:54:00:12:34:56",
    };
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(parse_mac(bad[i], mac) == -EINVAL, "\"%s\"", bad[i]);
    ck_assert_str_eq(mac, "untouched");
    ck_assert_int_eq(parse_mac("52:54:00:AB:cD:0f", mac), 0);
    ck_assert_str_eq(mac, "52:54:00:ab:cd:0f");
}
END_TEST

START_TEST(host_port)
{
    static const struct {
        const char *text, *address;
        unsigned port;
        int r;
    } cases[] = {
        { "127.0.0.1:8080", "127.0.0.1", 8080, 0 },
        { ":8080", "0.0.0.0", 8080, 0 },
        { "8080", "0.0.0.0", 8080, 0 },
        { "10.1.2.3:65535", "10.1.2.3", 65535, 0 },
        { "10.1.2.3:65536", NULL, 0, -ERANGE },
        { "127.0.0.1:0", NULL, 0, -ERANGE },
        { "", NULL, 0, -EINVAL },
        { ":", NULL, 0, -EINVAL },
        { "127.0.0.1:", NULL, 0, -EINVAL },
        { "127.0.0.1", NULL, 0, -EINVAL },
        { "localhost:80", NULL, 0, -EINVAL },
        { "::1:80", NULL, 0, -EINVAL },
        { "[::1]:80", NULL, 0, -EINVAL },
        { "256.0.0.1:80", NULL, 0, -EINVAL },
        { "127.0.0.1:80:90", NULL, 0, -EINVAL },
        { "1111111111111111111111111:80", NULL, 0, -EINVAL },
    };
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        struct in_addr addr = { .s_addr = 42 };
        uint16_t port = 4711;
        ck_assert_msg(parse_host_port(cases[i].text, &addr, &port) == cases[i].r, "\"%s\"", cases[i].text);
        ck_assert_uint_eq(port, cases[i].r == 0 ? cases[i].port : 4711);
        ck_assert_uint_eq(addr.s_addr, cases[i].r == 0 ? inet_addr(cases[i].address) : 42);
    }
}
END_TEST

START_TEST(names_cannot_leave_their_folder)
{
    static const char *const good[] = { "a", "web", "0", "Web-1.2_x", "a..b" };
    static const char *const bad[] = {
        "", ".", "..", "../x", "a/b", "/a", "-a", "_a", ".a", "a b", "a\n", "ä", "a:b", "a,b", "a=b", "a\x01", "%s",
    };
    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        ck_assert_msg(name_is_valid(good[i]), "\"%s\"", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        ck_assert_msg(!name_is_valid(bad[i]), "\"%s\"", bad[i]);
    ck_assert(!name_is_valid(NULL));
    char longest[NAME_MAX_LEN + 2];
    memset(longest, 'a', sizeof(longest));
    longest[NAME_MAX_LEN] = '\0';
    ck_assert(name_is_valid(longest));
    longest[NAME_MAX_LEN] = 'a';
    longest[NAME_MAX_LEN + 1] = '\0';
    ck_assert(!name_is_valid(longest));
}
END_TEST

static void add_tests(TCase *tc)
{
    tcase_add_test(tc, u64);
    tcase_add_test(tc, size);
    tcase_add_test(tc, size_format_is_exact);
    tcase_add_test(tc, duration);
    tcase_add_test(tc, duration_format_is_exact);
    tcase_add_test(tc, mac_address);
    tcase_add_test(tc, pci_address);
    tcase_add_test(tc, host_port);
    tcase_add_test(tc, names_cannot_leave_their_folder);
}

int main(void) { return fixture_main("parse", add_tests); }
