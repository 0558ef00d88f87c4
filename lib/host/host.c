#include "lib/host/host.h"

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#endif
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"

enum {
    PARAMETER_MAX = 4096,    /* a page: sysfs(5) */
    CPUINFO_MAX = 64 * 1024, /* the first processor's block says it all, and of a big host the file is long */
    LEAF_SEV = (int)0x8000001fu,
    CBIT_MASK = 0x3f,
    FAMILY_ZEN3 = 0x19, /* Milan, and Zen 4 */
    MODEL_MILAN_LAST = 0x0f,
};

bool host_cpuid_native(uint32_t leaf, uint32_t ret_registers[4])
{
#if defined(__x86_64__) || defined(__i386__)
    return __get_cpuid_count(leaf, 0, &ret_registers[0], &ret_registers[1], &ret_registers[2], &ret_registers[3]) != 0;
#else
    (void)leaf;
    (void)ret_registers;
    return false;
#endif
}

/* Up to `max` bytes of a file below the root; what is behind them isn't looked at. *ret_text NULL: it can't be read. */
static int read_start(const char *root, const char *path, size_t max, char **ret_text)
{
    auto_free char *full = NULL, *text = malloc(max + 1);
    auto_fd int fd = -1;
    size_t len = 0;
    ssize_t n = 0;

    if (!text || str_format(&full, "%s%s", root ? root : "", path) < 0)
        return -ENOMEM;
    fd = open(full, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    while (fd >= 0 && len < max && ((n = read(fd, text + len, max - len)) > 0 || (n < 0 && errno == EINTR)))
        len += n > 0 ? (size_t)n : 0;
    if (fd < 0 || n < 0)
        return 0;
    text[len] = '\0';
    *ret_text = steal_ptr(&text);
    return 0;
}

static int read_switch(const char *root, const char *path, bool *ret)
{
    auto_free char *text = NULL;
    int r = read_start(root, path, PARAMETER_MAX, &text);

    if (r >= 0 && text)
        *ret = text[0] == 'Y' || text[0] == '1'; /* as the kernel shows a bool, or an int that stands for one */
    return r;
}

/* Where the value of the first line "key : value" begins, NULL: no such line. */
static const char *find_value(const char *cpuinfo, const char *key)
{
    size_t n = strlen(key);

    for (const char *line = cpuinfo; *line;) {
        const char *end = strchrnul(line, '\n');

        if (strncmp(line, key, n) == 0) {
            const char *p = line + n + strspn(line + n, " \t");
            if (p < end && *p == ':')
                return p + 1 + strspn(p + 1, " \t");
        }
        line = *end ? end + 1 : end;
    }
    return NULL;
}

/* The number at the value's begin; 0 where there is none. */
static unsigned read_number(const char *cpuinfo, const char *key)
{
    const char *value = find_value(cpuinfo, key);
    char digits[8] = "";
    size_t n = value ? strspn(value, "0123456789") : 0;
    uint64_t number;

    if (n == 0 || n >= sizeof(digits))
        return 0;
    memcpy(digits, value, n);
    return parse_u64(digits, 0, UINT16_MAX, &number) < 0 ? 0 : (unsigned)number;
}

static int read_cpuinfo(const char *root, struct host *host)
{
    auto_free char *text = NULL;
    int r = read_start(root, "/proc/cpuinfo", CPUINFO_MAX, &text);

    if (r < 0 || !text)
        return r;
    const char *vendor = find_value(text, "vendor_id");
    host->amd = vendor && has_prefix(vendor, "AuthenticAMD");
    host->family = read_number(text, "cpu family");
    host->model = read_number(text, "model");
    /* "address sizes : 52 bits physical, 57 bits virtual": the first number is the physical one. */
    host->phys_bits = read_number(text, "address sizes");
    return 0;
}

int host_read(const char *root, host_cpuid *cpuid, struct host *ret_host)
{
    struct host host = { 0 };
    uint32_t registers[4] = { 0 };

    int r = read_switch(root, "/sys/module/kvm_intel/parameters/tdx", &host.tdx);
    if (r >= 0)
        r = read_switch(root, "/sys/module/kvm_amd/parameters/sev_snp", &host.sev_snp);
    if (r >= 0)
        r = read_cpuinfo(root, &host);
    if (r < 0)
        return r;
    if (cpuid((uint32_t)LEAF_SEV, registers))
        host.cbitpos = registers[1] & CBIT_MASK;
    *ret_host = host;
    return 0;
}

const char *host_epyc_model(const struct host *host)
{
    if (!host->amd || host->family < FAMILY_ZEN3)
        return NULL;
    return host->family == FAMILY_ZEN3 && host->model <= MODEL_MILAN_LAST ? "EPYC-v3" : "EPYC-v4";
}
