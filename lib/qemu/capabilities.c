#include "lib/qemu/capabilities.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "lib/base/util.h"

/* The machine families we have devices for: the alias in `-machine help` that names the newest version of each. */
static const char *const machine_families[] = { "q35", "virt" };

/* Length of the run of characters that versions and machine names are made of. */
static size_t word_len(const char *s)
{
    size_t n = 0;

    while (isalnum((unsigned char)s[n]) || s[n] == '.' || s[n] == '-' || s[n] == '_' || s[n] == '+')
        n++;
    return n;
}

static int copy_word(const char *s, char **ret)
{
    size_t n = word_len(s);

    if (n == 0)
        return -EINVAL;
    char *copy = strndup(s, n);
    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return 0;
}

static int parse_version(const char *text, char **ret)
{
    static const char marker[] = "QEMU emulator version ";
    const char *at = text ? strstr(text, marker) : NULL;

    if (!at || !isdigit((unsigned char)at[sizeof marker - 1]))
        return -EINVAL;
    return copy_word(at + sizeof marker - 1, ret);
}

/* The version an alias stands for: "q35   Standard PC (Q35 + ICH9, 2009) (alias of pc-q35-7.2)". */
static int parse_alias(const char *text, const char *family, char **ret)
{
    static const char marker[] = "(alias of ";
    size_t n = strlen(family);

    for (const char *line = text; line && *line;) {
        const char *end = strchrnul(line, '\n');
        const char *alias = strstr(line, marker);
        if (strncmp(line, family, n) == 0 && line[n] == ' ' && alias && alias < end)
            return copy_word(alias + sizeof marker - 1, ret);
        line = *end ? end + 1 : end;
    }
    return -EINVAL;
}

/* Every line's first word that begins as `machine` does up to its version. */
static int list_family(const char *text, const char *machine, char **ret)
{
    size_t prefix = (size_t)(strrchr(machine, '-') + 1 - machine);
    auto_free char *list = strdup(" ");

    for (const char *line = text; list && *line;) {
        const char *end = strchrnul(line, '\n');

        if (strncmp(line, machine, prefix) == 0) {
            char *longer = NULL;

            if (str_format(&longer, "%s%.*s ", list, (int)word_len(line), line) < 0)
                return -ENOMEM;
            free(list);
            list = longer;
        }
        line = *end ? end + 1 : end;
    }
    if (!list)
        return -ENOMEM;
    *ret = steal_ptr(&list);
    return 0;
}

int qemu_capabilities_parse(const char *version_text, const char *machine_text, struct qemu_capabilities *ret, struct err *err)
{
    auto_free char *version = NULL, *machine = NULL, *machines = NULL;

    int r = parse_version(version_text, &version);
    if (r == -EINVAL)
        return err_set(err, EINVAL, "not-qemu", "the program doesn't answer -version as QEMU does");
    if (r < 0)
        return r;
    r = -EINVAL;
    for (size_t i = 0; i < ARRAY_LEN(machine_families) && r == -EINVAL; i++)
        r = parse_alias(machine_text, machine_families[i], &machine);
    if (r == -EINVAL)
        return err_set(err, EINVAL, "no-machine", "QEMU %s offers no versioned q35 or virt machine", version);
    if (r < 0)
        return r;
    if (strrchr(machine, '-')) {
        r = list_family(machine_text, machine, &machines);
        if (r < 0)
            return r;
    }
    *ret = (struct qemu_capabilities){ .version = steal_ptr(&version), .machine = steal_ptr(&machine), .machines = steal_ptr(&machines) };
    return 0;
}

/* Whether `text` has `word` with nothing of a longer one around it. */
static bool has_word(const char *text, const char *word)
{
    size_t n = strlen(word);

    for (const char *at = text ? strstr(text, word) : NULL; at; at = strstr(at + 1, word))
        if ((at == text || word_len(at - 1) == 0) && word_len(at) == n)
            return true;
    return false;
}

int qemu_capabilities_parse_features(struct qemu_capabilities *c, const char *object_text, const char *device_text, const char *cpu_text)
{
    const struct {
        const char *feature, *text;
    } wanted[] = {
        { "tdx-guest", object_text },       { "sev-snp-guest", object_text }, { "iommufd", object_text }, { "vfio-pci", device_text },
        { "vhost-vsock-pci", device_text }, { "EPYC-v3", cpu_text },          { "EPYC-v4", cpu_text },
    };
    auto_free char *features = strdup(" ");

    for (size_t i = 0; features && i < ARRAY_LEN(wanted); i++) {
        char *longer = NULL;

        if (!has_word(wanted[i].text, wanted[i].feature))
            continue;
        if (str_format(&longer, "%s%s ", features, wanted[i].feature) < 0)
            return -ENOMEM;
        free(features);
        features = longer;
    }
    if (!features)
        return -ENOMEM;
    free(c->features);
    c->features = steal_ptr(&features);
    return 0;
}

bool qemu_capabilities_has(const struct qemu_capabilities *c, const char *feature)
{
    auto_free char *word = NULL;

    return c->features && str_format(&word, " %s ", feature) >= 0 && strstr(c->features, word);
}

bool qemu_capabilities_has_machine(const struct qemu_capabilities *c, const char *machine)
{
    auto_free char *word = NULL;

    return c->machines && str_format(&word, " %s ", machine) >= 0 && strstr(c->machines, word);
}

void qemu_capabilities_clear(struct qemu_capabilities *c)
{
    free(c->version);
    free(c->machine);
    free(c->machines);
    free(c->features);
    *c = (struct qemu_capabilities){ 0 };
}

/* Whether a "flags" line of /proc/cpuinfo has the whole word `flag`. */
static bool cpu_has_flag(const char *cpuinfo, const char *flag)
{
    size_t n = strlen(flag);

    for (const char *line = cpuinfo; *line;) {
        const char *end = strchrnul(line, '\n');
        if (strncmp(line, "flags", 5) == 0)
            for (const char *at = strstr(line, flag); at && at < end; at = strstr(at + 1, flag))
                if (isspace((unsigned char)at[-1]) && (!at[n] || isspace((unsigned char)at[n])))
                    return true;
        line = *end ? end + 1 : end;
    }
    return false;
}

bool qemu_kvm_usable(const char *cpuinfo, bool device_opens)
{
    if (!device_opens)
        return false;
#if defined(__x86_64__) || defined(__i386__)
    return cpuinfo && (cpu_has_flag(cpuinfo, "vmx") || cpu_has_flag(cpuinfo, "svm"));
#else
    (void)cpu_has_flag;
    return true;
#endif
}

#define PATHS_FOR(arch)                                                                                                                    \
    {                                                                                                                                      \
        arch,                                                                                                                              \
        {                                                                                                                                  \
            "/usr/local/bin/qemu-system-" arch, "/usr/bin/qemu-system-" arch, "/bin/qemu-system-" arch, "/opt/qemu/bin/qemu-system-" arch, \
                "/usr/libexec/qemu-kvm"                                                                                                    \
        }                                                                                                                                  \
    }

static const struct {
    const char *machine; /* as uname(2) says it */
    const char *paths[5];
} default_paths[] = { PATHS_FOR("x86_64"), PATHS_FOR("aarch64") };

const char *qemu_default_path(void)
{
    struct utsname host;

    if (uname(&host) < 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(default_paths); i++)
        for (size_t k = 0; k < ARRAY_LEN(default_paths[i].paths) && streq(host.machine, default_paths[i].machine); k++)
            if (access(default_paths[i].paths[k], X_OK) == 0)
                return default_paths[i].paths[k];
    return NULL;
}
