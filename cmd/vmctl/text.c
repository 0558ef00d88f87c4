#include "cmd/vmctl/text.h"

#include <errno.h>
#include <signal.h>

#include "cmd/vmctl/output.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

enum { WORD_MAX = 64, SIGNAL_MAX = 64 };

const char *text_elapsed(uint64_t ms, char buf[ELAPSED_MAX])
{
    uint64_t s = ms / 1000;

    if (ms < 10 * 1000)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 ".%" PRIu64 " s", s, ms % 1000 / 100);
    else if (s < 60)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 " s", s);
    else if (s < 3600)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s % 3600 / 60);
    else
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s % 86400 / 3600);
    return buf;
}

const char *text_uptime(uint64_t ms, char buf[ELAPSED_MAX])
{
    uint64_t s = ms / 1000;

    if (s < 60)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 "s", s);
    else if (s < 3600)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 "m%" PRIu64 "s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 "h%" PRIu64 "m", s / 3600, s % 3600 / 60);
    else
        snprintf(buf, ELAPSED_MAX, "%" PRIu64 "d%" PRIu64 "h", s / 86400, s % 86400 / 3600);
    return buf;
}

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
    unsigned m = a < b ? a : b;

    return m < c ? m : c;
}

const char *text_bytes(uint64_t bytes, char buf[BYTES_MAX])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    uint64_t whole = bytes, tenths = 0;
    size_t unit = 0;

    while (whole >= 1024 && unit + 1 < ARRAY_LEN(units)) {
        tenths = whole % 1024 * 10 / 1024;
        whole /= 1024;
        unit++;
    }
    if (whole < 10 && tenths > 0)
        snprintf(buf, BYTES_MAX, "%" PRIu64 ".%" PRIu64 " %s", whole, tenths, units[unit]);
    else
        snprintf(buf, BYTES_MAX, "%" PRIu64 " %s", whole, units[unit]);
    return buf;
}

/* Optimal string alignment distance, three rows at a time. */
unsigned text_distance(const char *a, const char *b)
{
    size_t la = strlen(a), lb = strlen(b);
    unsigned rows[3][WORD_MAX] = { 0 };

    if (la >= WORD_MAX || lb >= WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= lb; j++)
        rows[0][j] = (unsigned)j;
    for (size_t i = 1; i <= la; i++) {
        unsigned *row = rows[i % 3], *above = rows[(i + 2) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                row[j] = min3(row[j], row[j], above2[j - 2] + 1);
        }
    }
    return rows[la % 3][lb];
}

unsigned text_typo_limit(const char *word)
{
    size_t len = strlen(word);

    return len <= 2 ? 0 : len <= 4 ? 1 : len <= 8 ? 2 : 3;
}

char *text_one_line(const char *s)
{
    size_t n = 0;
    char *out = must(malloc(strlen(s) * 2 + 1));

    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '\n') {
            if (s[1]) {
                out[n++] = ';';
                out[n++] = ' ';
            }
        } else if (c == '\t') {
            out[n++] = ' ';
        } else if (c != '\r') {
            out[n++] = c < 0x20 || c == 0x7f ? '?' : *s;
        }
    }
    out[n] = '\0';
    return out;
}

int text_parse_signal(const char *s, int *ret_signal)
{
    uint64_t n;

    if (parse_u64(s, 1, SIGNAL_MAX, &n) == 0) {
        *ret_signal = (int)n;
        return 0;
    }
    if (strncasecmp(s, "SIG", 3) == 0)
        s += 3;
    for (int i = 1; i <= SIGNAL_MAX; i++) {
        const char *name = sigabbrev_np(i);
        if (name && strcasecmp(name, s) == 0) {
            *ret_signal = i;
            return 0;
        }
    }
    return -EINVAL;
}
