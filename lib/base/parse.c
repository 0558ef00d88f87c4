#include "lib/base/parse.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "lib/base/util.h"

/* Digits at *p, which moves past them. -EINVAL when there are none, -ERANGE when they don't fit. */
static int take_u64(const char **p, uint64_t *ret)
{
    const char *s = *p;
    uint64_t value = 0;
    bool overflow = false;
    for (; *s >= '0' && *s <= '9'; s++)
        overflow |= __builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, (uint64_t)(*s - '0'), &value);
    if (s == *p)
        return -EINVAL;
    *p = s;
    *ret = value;
    return overflow ? -ERANGE : 0;
}

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret)
{
    uint64_t value;
    int r = take_u64(&s, &value);
    if (r == -EINVAL || *s)
        return -EINVAL;
    if (r < 0)
        return r;
    if (value < min || value > max)
        return -ERANGE;
    *ret = value;
    return 0;
}

static const char size_units[] = "KMGT";

int parse_size(const char *s, uint64_t *ret_bytes)
{
    uint64_t value, factor = 1;
    int r = take_u64(&s, &value);
    if (r == -EINVAL)
        return r;
    const char *unit = *s ? strchr(size_units, *s) : NULL;
    if (unit) {
        factor <<= 10 * (unit - size_units + 1);
        s++;
        if (*s == 'i' && s[1] == 'B')
            s++;
    }
    if (*s == 'B')
        s++;
    if (*s)
        return -EINVAL;
    if (r < 0 || __builtin_mul_overflow(value, factor, &value))
        return -ERANGE;
    *ret_bytes = value;
    return 0;
}

const char *format_size(uint64_t bytes, char buf[SIZE_TEXT_MAX])
{
    char unit[2] = "";
    for (size_t i = 0; size_units[i] && bytes && bytes % 1024 == 0; i++) {
        bytes /= 1024;
        unit[0] = size_units[i];
    }
    snprintf(buf, SIZE_TEXT_MAX, "%" PRIu64 "%s", bytes, unit);
    return buf;
}

static const struct duration_unit {
    const char *name;
    uint64_t ms;
} duration_units[] = {
    { "d", 24 * 60 * 60 * 1000 }, { "h", 60 * 60 * 1000 }, { "m", 60 * 1000 }, { "s", 1000 }, { "ms", 1 },
};

int parse_duration(const char *s, uint64_t *ret_ms)
{
    uint64_t total = 0;
    bool overflow = false;
    if (streq(s, "0")) {
        *ret_ms = 0;
        return 0;
    }
    if (!*s)
        return -EINVAL;
    /* Units come in falling order, each at most once: "1h30m", never "30m1h" or "1m1m". */
    for (size_t next = 0; *s;) {
        uint64_t value;
        int r = take_u64(&s, &value);
        if (r == -EINVAL)
            return r;
        overflow |= r < 0;
        size_t len = strspn(s, "dhms");
        size_t i = next;
        while (i < ARRAY_LEN(duration_units) && (strlen(duration_units[i].name) != len || memcmp(duration_units[i].name, s, len) != 0))
            i++;
        if (i == ARRAY_LEN(duration_units))
            return -EINVAL;
        overflow |= __builtin_mul_overflow(value, duration_units[i].ms, &value) || __builtin_add_overflow(total, value, &total);
        s += len;
        next = i + 1;
    }
    if (overflow)
        return -ERANGE;
    *ret_ms = total;
    return 0;
}

const char *format_duration(uint64_t ms, char buf[DURATION_TEXT_MAX])
{
    size_t len = 0;
    snprintf(buf, DURATION_TEXT_MAX, "0");
    for (size_t i = 0; i < ARRAY_LEN(duration_units); i++) {
        uint64_t n = ms / duration_units[i].ms;
        ms %= duration_units[i].ms;
        if (n)
            len += (size_t)snprintf(buf + len, DURATION_TEXT_MAX - len, "%" PRIu64 "%s", n, duration_units[i].name);
    }
    return buf;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int parse_mac(const char *s, char ret_mac[MAC_TEXT_MAX])
{
    unsigned char mac[6];
    unsigned any = 0;
    for (int i = 0; i < 6; i++) {
        int high = hex_digit(s[0]);
        int low = high < 0 ? -1 : hex_digit(s[1]);
        if (low < 0 || s[2] != (i < 5 ? ':' : '\0'))
            return -EINVAL;
        mac[i] = (unsigned char)(high << 4 | low);
        any |= mac[i];
        s += 3;
    }
    if (!any || (mac[0] & 1))
        return -EINVAL;
    snprintf(ret_mac, MAC_TEXT_MAX, "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4], mac[5]);
    return 0;
}

int parse_pci_address(const char *s, char ret_address[PCI_TEXT_MAX])
{
    static const char shape[] = "xxxx:xx:xx.o"; /* domain, bus, slot; functions are 0 to 7 */
    const size_t domain = 5;
    const char *at = strlen(s) == sizeof(shape) - 1 - domain ? shape + domain : shape;
    char address[PCI_TEXT_MAX] = "0000:";
    if (strlen(s) != strlen(at))
        return -EINVAL;
    for (char *out = address + (at - shape); *at; at++, s++) {
        int digit = hex_digit(*s);
        if (*at == 'x' ? digit < 0 : *at == 'o' ? digit < 0 || digit > 7 : *s != *at)
            return -EINVAL;
        *out++ = digit < 0 ? *at : "0123456789abcdef"[digit];
    }
    memcpy(ret_address, address, sizeof(address));
    return 0;
}

int parse_host_port(const char *s, struct in_addr *ret_addr, uint16_t *ret_port)
{
    struct in_addr addr = { .s_addr = htonl(INADDR_ANY) };
    const char *colon = strchr(s, ':');
    if (colon && colon != s) {
        char host[INET_ADDRSTRLEN];
        size_t len = (size_t)(colon - s);
        if (len >= sizeof(host))
            return -EINVAL;
        memcpy(host, s, len);
        host[len] = '\0';
        if (inet_pton(AF_INET, host, &addr) != 1)
            return -EINVAL;
    }
    uint64_t port;
    int r = parse_u64(colon ? colon + 1 : s, 1, UINT16_MAX, &port);
    if (r < 0)
        return r;
    *ret_addr = addr;
    *ret_port = (uint16_t)port;
    return 0;
}

/* Not isalnum(): that depends on the locale. */
static bool is_alnum_ascii(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9'); }

static bool consists_of(const char *s, const char *beside)
{
    if (!s || !is_alnum_ascii(s[0]))
        return false;
    size_t len = 1;
    for (; s[len]; len++)
        if (len >= NAME_MAX_LEN || (!is_alnum_ascii(s[len]) && !strchr(beside, s[len])))
            return false;
    return true;
}

bool name_is_valid(const char *s) { return consists_of(s, "._-"); }
bool version_is_valid(const char *s) { return consists_of(s, "._-+"); }
