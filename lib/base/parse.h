/* Bounded parsers for text from people and from the wire. All take the whole string: trailing characters are -EINVAL, a value out of
 * range is -ERANGE; outputs are untouched on failure. */
#pragma once

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>

enum {
    NAME_MAX_LEN = 64,
    MAC_TEXT_MAX = 18,
    PCI_TEXT_MAX = 13,
    SIZE_TEXT_MAX = 24,
    DURATION_TEXT_MAX = 32,
};

int parse_u64(const char *s, uint64_t min, uint64_t max, uint64_t *ret);

/* "512M", "2G", "20GiB", "4096": binary units K M G T with optional "iB" or "B"; a bare number is bytes. Fractions are refused. */
int parse_size(const char *s, uint64_t *ret_bytes);
const char *format_size(uint64_t bytes, char buf[SIZE_TEXT_MAX]); /* exact, largest unit that divides: "1536M" */

/* "500ms", "10s", "5m", "1h", "1d", "1h30m", "0". A bare number other than 0 is refused: the unit must be said. */
int parse_duration(const char *s, uint64_t *ret_ms);
const char *format_duration(uint64_t ms, char buf[DURATION_TEXT_MAX]); /* exact, parseable: "1h30m", "500ms" */

/* "52:54:00:12:34:56"; multicast and all-zero addresses are -EINVAL. Result in lower case. */
int parse_mac(const char *s, char ret_mac[MAC_TEXT_MAX]);

/* "c1:00.0" or "0000:C1:00.0", as sysfs names devices; both are the same one. Result with its domain and in lower case: "0000:c1:00.0". */
int parse_pci_address(const char *s, char ret_address[PCI_TEXT_MAX]);

/* "127.0.0.1:8080" or ":8080" or "8080" (address 0.0.0.0). IPv4 only: QEMU's user network forwards IPv4. */
int parse_host_port(const char *s, struct in_addr *ret_addr, uint16_t *ret_port);

/* A VM, disk or snapshot name: 1 to 64 of [A-Za-z0-9._-], first one a letter or digit. So it can't leave its folder. */
bool name_is_valid(const char *s);
#define NAME_RULE "1 to 64 of letters, digits, '.', '_', '-', beginning with a letter or digit"

/* The version of an image, which names a folder: as a name, but also with '+', as upstreams write them. */
bool version_is_valid(const char *s);
#define VERSION_RULE "1 to 64 of letters, digits, '.', '_', '-', '+', beginning with a letter or digit"
