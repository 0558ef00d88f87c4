/* What a spec's tables can't say: rules over several fields, and what a value means. Pure: looks at no host. */
#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <regex.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/limits.h"
#include "lib/spec/spec_internal.h"
#include "proto/plan.h"

void spec_check_path(struct problems *p, const char *pointer, const char *path)
{
    if (!path)
        return;
    if (path[0] != '/')
        problem_add(p, "%s: '%s' is not an absolute path", pointer, path);
    else if (strlen(path) >= PATH_MAX)
        problem_add(p, "%s: path is longer than %d bytes", pointer, PATH_MAX - 1);
}

static void check_size(struct problems *p, const char *pointer, uint64_t size, uint64_t min, uint64_t max)
{
    char min_text[SIZE_TEXT_MAX], max_text[SIZE_TEXT_MAX], text[SIZE_TEXT_MAX];

    if (size < min || size > max)
        problem_add(p, "%s: expected a size from %s to %s, got %s", pointer, format_size(min, min_text), format_size(max, max_text),
                    format_size(size, text));
}

static void check_duration(struct problems *p, const char *pointer, uint64_t ms, uint64_t min)
{
    char min_text[DURATION_TEXT_MAX], max_text[DURATION_TEXT_MAX], text[DURATION_TEXT_MAX];

    if (ms < min || ms > DURATION_MAX_MS)
        problem_add(p, "%s: expected a duration from %s to %s, got %s", pointer, format_duration(min, min_text),
                    format_duration(DURATION_MAX_MS, max_text), format_duration(ms, text));
}

static void check_machine(const struct spec *spec, struct problems *p)
{
    char text[SIZE_TEXT_MAX];

    if (!spec->name || !name_is_valid(spec->name))
        problem_add(p, "/name: '%s' is not a valid name: %s", spec->name ? spec->name : "", NAME_RULE);
    check_size(p, "/memory", spec->memory, MEMORY_MIN, MEMORY_MAX);
    if (spec->memory % (1 << 20) != 0)
        problem_add(p, "/memory: expected whole mebibytes, got %s", format_size(spec->memory, text));
}

static void check_boot(const struct spec *spec, struct problems *p)
{
    spec_check_path(p, "/boot/kernel", spec->boot.kernel);
    spec_check_path(p, "/boot/initrd", spec->boot.initrd);
    spec_check_path(p, "/boot/firmware", spec->boot.firmware);
    if (spec->image.name)
        return; /* spec_check_image() */
    if (!spec->boot.kernel && spec->boot.initrd)
        problem_add(p, "/boot/initrd: needs \"kernel\" beside it");
    if (!spec->boot.kernel && spec->boot.cmdline)
        problem_add(p, "/boot/cmdline: needs \"kernel\" beside it");
    /* With the place itself unreadable, what it would have held is unknown. */
    if (!spec->boot.kernel && !spec->boot.firmware && spec->n_disks == 0 && !problem_under(p, "/boot") && !problem_under(p, "/image") &&
        !problem_under(p, "/disks"))
        problem_add(p, "/boot: nothing to boot: give \"kernel\" or \"firmware\", or a disk in \"disks\"");
}

/* What is known without the host; of "auto" only the host knows what it is. */
static void check_confidential(const struct spec *spec, struct problems *p)
{
    const char *mode = enum_to_string(&confidential_mode_names, spec->confidential);

    if (spec->confidential != CONFIDENTIAL_TDX && spec->confidential != CONFIDENTIAL_SEV_SNP)
        return;
    if (!spec->boot.firmware && !spec->image.name && !problem_under(p, "/boot"))
        problem_add(p, "/boot/firmware: missing; a guest with confidential \"%s\" doesn't start by QEMU's own BIOS", mode);
    if (spec->accel == ACCEL_TCG)
        problem_add(p, "/accel: confidential \"%s\" needs KVM: say \"auto\" or \"kvm\"", mode);
}

static void check_restart(const struct spec *spec, struct problems *p)
{
    char delay[DURATION_TEXT_MAX], max_delay[DURATION_TEXT_MAX];

    check_duration(p, "/restart/delay", spec->restart.delay_ms, RESTART_DELAY_MIN_MS);
    check_duration(p, "/restart/max_delay", spec->restart.max_delay_ms, RESTART_DELAY_MIN_MS);
    check_duration(p, "/restart/reset_after", spec->restart.reset_after_ms, 0);
    if (spec->restart.max_delay_ms < spec->restart.delay_ms && !problem_under(p, "/restart/delay"))
        problem_add(p, "/restart/max_delay: %s is shorter than \"delay\" (%s)", format_duration(spec->restart.max_delay_ms, max_delay),
                    format_duration(spec->restart.delay_ms, delay));
}

enum {
    PROBE_HAS_HOST = 1 << 0,
    PROBE_HAS_PORT = 1 << 1,
    PROBE_HAS_PATH = 1 << 2,
    PROBE_HAS_STATUS = 1 << 3,
    PROBE_HAS_MATCH = 1 << 4,
    PROBE_HAS_ARGV = 1 << 5,
};

static const struct {
    unsigned needs, may;
} probe_rules[] = {
    [PROBE_TCP] = { .needs = PROBE_HAS_PORT, .may = PROBE_HAS_HOST },
    [PROBE_HTTP] = { .needs = PROBE_HAS_PORT, .may = PROBE_HAS_HOST | PROBE_HAS_PATH | PROBE_HAS_STATUS | PROBE_HAS_MATCH },
    [PROBE_AGENT] = { 0 },
    [PROBE_QMP] = { 0 },
    [PROBE_EXEC] = { .needs = PROBE_HAS_ARGV },
    [PROBE_CONSOLE] = { .needs = PROBE_HAS_MATCH },
};

static unsigned probe_has(const struct plan_probe *probe)
{
    return (probe->host ? PROBE_HAS_HOST : 0) | (probe->port ? PROBE_HAS_PORT : 0) | (probe->path ? PROBE_HAS_PATH : 0) |
           (probe->status ? PROBE_HAS_STATUS : 0) | (probe->match ? PROBE_HAS_MATCH : 0) | (probe->argv ? PROBE_HAS_ARGV : 0);
}

static void check_probe_fields(const struct plan_probe *probe, size_t i, struct problems *p)
{
    static const char *const keys[] = { "host", "port", "path", "status", "match", "argv" };
    const char *type = enum_to_string(&probe_kind_names, probe->kind);
    unsigned has = probe_has(probe), needs = probe_rules[probe->kind].needs, may = needs | probe_rules[probe->kind].may;

    for (unsigned bit = 0; bit < ARRAY_LEN(keys); bit++) {
        unsigned mask = 1u << bit;
        if ((has & mask) && !(may & mask))
            problem_add(p, "/health/%zu/%s: a probe of type \"%s\" has no such setting", i, keys[bit], type);
        if ((needs & mask) && !(has & mask))
            problem_add(p, "/health/%zu/%s: missing; a probe of type \"%s\" needs it", i, keys[bit], type);
    }
}

static bool is_address(const char *s)
{
    struct in6_addr addr; /* big enough for either */
    return inet_pton(AF_INET, s, &addr) == 1 || inet_pton(AF_INET6, s, &addr) == 1;
}

/* A request line ends at the first space or control character. */
static bool is_http_path(const char *s)
{
    if (s[0] != '/')
        return false;
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || *s == 0x7f)
            return false;
    return true;
}

/* The same flags as the shim compiles it with (shim/probe.c). */
static void check_pattern(const char *pattern, size_t i, struct problems *p)
{
    char why[128];
    regex_t compiled;
    int r = regcomp(&compiled, pattern, REG_EXTENDED | REG_NOSUB | REG_NEWLINE);

    if (r == 0) {
        regfree(&compiled);
        return;
    }
    (void)regerror(r, &compiled, why, sizeof(why));
    problem_add(p, "/health/%zu/match: expected an extended regular expression (regex(7)), got '%s': %s", i, pattern, why);
}

static void check_probe_values(const struct plan_probe *probe, size_t i, struct problems *p)
{
    char pointer[64];

    if (probe->host && !is_address(probe->host))
        problem_add(p, "/health/%zu/host: expected an IPv4 or IPv6 address, got '%s'", i, probe->host);
    if (probe->path && !is_http_path(probe->path))
        problem_add(p, "/health/%zu/path: expected a path that begins with '/' and has no spaces, got '%s'", i, probe->path);
    if (probe->match && !*probe->match)
        problem_add(p, "/health/%zu/match: is empty, so it would match anything", i);
    else if (probe->match && probe->kind == PROBE_CONSOLE)
        check_pattern(probe->match, i, p);
    if (probe->argv) {
        snprintf(pointer, sizeof pointer, "/health/%zu/argv/0", i);
        if (probe->argv[0])
            spec_check_path(p, pointer, probe->argv[0]);
        else
            problem_add(p, "/health/%zu/argv: is empty; its first element is the program to run", i);
    }
    snprintf(pointer, sizeof pointer, "/health/%zu/interval", i);
    check_duration(p, pointer, probe->interval_ms, PROBE_INTERVAL_MIN_MS);
    snprintf(pointer, sizeof pointer, "/health/%zu/timeout", i);
    check_duration(p, pointer, probe->timeout_ms, 1);
    snprintf(pointer, sizeof pointer, "/health/%zu/start_period", i);
    check_duration(p, pointer, probe->start_period_ms, 0);
}

static int check_health(struct spec *spec, struct problems *p)
{
    if (spec->n_health > PROBES_MAX) {
        problem_add(p, "/health: %zu probes, at most %d are possible", spec->n_health, PROBES_MAX);
        return 0;
    }
    for (size_t i = 0; i < spec->n_health; i++) {
        struct plan_probe *probe = &spec->health[i];
        char pointer[64];

        snprintf(pointer, sizeof pointer, "/health/%zu/type", i);
        if (probe->kind < 0 || (size_t)probe->kind >= ARRAY_LEN(probe_rules) || problem_under(p, pointer))
            continue; /* of what type is unknown, so nothing more can be said */
        check_probe_fields(probe, i, p);
        check_probe_values(probe, i, p);
        if (!probe->host && (probe_rules[probe->kind].may & PROBE_HAS_HOST) && str_set(&probe->host, "127.0.0.1") < 0)
            return -ENOMEM;
        if (!probe->path && (probe_rules[probe->kind].may & PROBE_HAS_PATH) && str_set(&probe->path, "/") < 0)
            return -ENOMEM;
    }
    return 0;
}

/* Options that would take from the shim what it must hold in its hand. */
static const struct {
    const char *option;
    const char *why;
} refused_args[] = {
    { "daemonize", "QEMU must stay the child of its shim" },
    { "no-shutdown", "QEMU must exit when its guest shuts down" },
    { "preconfig", "QEMU would wait for a command that nobody sends" },
    { "incoming", "it is for restores, which the shim does itself" },
    { "loadvm", "it is for restores, which the shim does itself" },
    { "runas", "QEMU's user is changed before it is started" },
    { "chroot", "QEMU's root is changed before it is started" },
    { "m", "use \"memory\"" },
    { "mem-path", "guest memory is a file that the shim makes" },
    { "mem-prealloc", "guest memory is a file that the shim makes" },
    { "smp", "use \"cpus\"" },
    { "accel", "use \"accel\"" },
    { "enable-kvm", "use \"accel\"" },
    { "machine", "the machine is chosen so that restores and QEMU upgrades work" },
    { "M", "the machine is chosen so that restores and QEMU upgrades work" },
    { "name", "use \"name\"" },
    { "readconfig", "what is in a file can't be checked" },
};

static void check_qemu(const struct spec *spec, struct problems *p)
{
    spec_check_path(p, "/qemu/path", spec->qemu.path);
    if (spec->qemu.user && !*spec->qemu.user)
        problem_add(p, "/qemu/user: is empty; expected a user's name or number");
    for (size_t i = 0; spec->qemu.extra_args && spec->qemu.extra_args[i]; i++) {
        if (i == EXTRA_ARGS_MAX) {
            problem_add(p, "/qemu/extra_args: more than %d arguments", EXTRA_ARGS_MAX);
            return;
        }
        const char *arg = spec->qemu.extra_args[i];
        const char *option = arg + (has_prefix(arg, "--") ? 2 : has_prefix(arg, "-") ? 1 : 0);
        for (size_t k = 0; option != arg && k < ARRAY_LEN(refused_args); k++)
            if (streq(option, refused_args[k].option))
                problem_add(p, "/qemu/extra_args/%zu: '%s' is not possible here: %s", i, arg, refused_args[k].why);
    }
}

/* Below the guest's own memory it would be killed for using what it was given. */
static void check_limits(const struct spec *spec, struct problems *p)
{
    const struct {
        const char *place;
        uint64_t bytes;
    } sizes[] = {
        { "/limits/memory_high", spec->limits.memory_high },
        { "/limits/memory_max", spec->limits.memory_max },
    };

    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        char limit[SIZE_TEXT_MAX], memory[SIZE_TEXT_MAX];

        if (sizes[i].bytes != 0 && sizes[i].bytes < spec->memory)
            problem_add(p, "%s: %s is less than the guest's memory (%s); QEMU itself needs some 100M more", sizes[i].place,
                        format_size(sizes[i].bytes, limit), format_size(spec->memory, memory));
    }
    if (spec->limits.memory_high != 0 && spec->limits.memory_max != 0 && spec->limits.memory_high > spec->limits.memory_max)
        problem_add(p, "/limits/memory_high: is more than memory_max, so it would never be felt");
}

int spec_check(struct spec *spec, struct problems *p)
{
    check_machine(spec, p);
    check_boot(spec, p);
    check_confidential(spec, p);
    spec_check_image(spec, p);
    spec_check_disks(spec, p);
    int r = spec_check_content(spec, p);
    if (r >= 0)
        r = spec_check_network(spec, p);
    if (r < 0)
        return r;
    r = spec_check_gpus(p, "/gpus", spec->gpus);
    if (r < 0)
        return r;
    check_restart(spec, p);
    r = check_health(spec, p);
    if (r < 0)
        return r;
    check_duration(p, "/stop/timeout", spec->stop.timeout_ms, 0);
    check_size(p, "/logs/max_size", spec->logs.max_size, LOG_SIZE_MIN, LOG_SIZE_MAX);
    check_limits(spec, p);
    check_qemu(spec, p);
    return 0;
}
