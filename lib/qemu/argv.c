#include "lib/qemu/argv.h"

#include <errno.h>
#include <inttypes.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "proto/launch.h"

/* What differs between machine families. CPU models of TCG are versioned ones, so that a saved device state fits the next QEMU too; x86's
 * has all of x86-64-v2, which today's distributions ask for, and nothing TCG lacks. */
static const struct {
    const char *options;
    const char *tcg_options, *kvm_options;
    const char *tcg_cpu;
} families[] = {
    /* No AHCI, SMBus and VMware port: nothing uses them, and firmware and kernel would spend time on each. */
    [MACHINE_Q35] = { "vmport=off,sata=off,smbus=off", "", "", "Nehalem-v1" },
    [MACHINE_VIRT] = { "its=on", ",gic-version=3", ",gic-version=host", "cortex-a72" },
};

void argv_push_json(struct argv *a, const char *option, json_t *json)
{
    auto_json json_t *owned = json;
    auto_free char *text = owned ? json_dumps(owned, JSON_COMPACT) : NULL;

    if (!text) {
        a->words.failed = true;
        return;
    }
    strv_push(&a->words, option);
    strv_push(&a->words, text);
}

static void push_pair(struct argv *a, const char *option, const char *value)
{
    strv_push(&a->words, option);
    strv_push(&a->words, value);
}

/* Doubles commas: QEMU's way to have one in a value of its key=value options. */
static char *escape_commas(const char *s)
{
    char *out = malloc(strlen(s) * 2 + 1);
    char *to = out;

    if (!out)
        return NULL;
    for (; *s; s++) {
        if (*s == ',')
            *to++ = ',';
        *to++ = *s;
    }
    *to = '\0';
    return out;
}

static void push_machine(struct argv *a)
{
    const struct spec *spec = a->in->spec;
    uint64_t mebibytes = spec->memory >> 20;

    strv_push(&a->words, "-machine");
    strv_pushf(&a->words, "%s,memory-backend=ram,dump-guest-core=off,%s%s", a->in->capabilities->machine, families[a->family].options,
               a->kvm ? families[a->family].kvm_options : families[a->family].tcg_options);
    push_pair(a, "-accel", a->kvm ? "kvm" : "tcg");
    push_pair(a, "-cpu", a->kvm ? "host" : families[a->family].tcg_cpu);
    strv_push(&a->words, "-smp");
    strv_pushf(&a->words, "%" PRIu64, spec->cpus);
    strv_push(&a->words, "-m");
    strv_pushf(&a->words, "%" PRIu64 "M", mebibytes);
    auto_free char *ram = NULL;
    if (str_format(&ram, "/proc/self/fd/%d", PLAN_FD_RAM) < 0)
        a->words.failed = true;
    else
        argv_push_json(a, "-object",
                       json_pack("{s:s, s:s, s:I, s:s, s:b}", "qom-type", "memory-backend-file", "id", "ram", "size",
                                 (json_int_t)spec->memory, "mem-path", ram, "share", 1));
}

static void push_monitor_and_console(struct argv *a)
{
    auto_free char *log_dir = escape_commas(a->in->log_dir);

    if (!log_dir) {
        a->words.failed = true;
        return;
    }
    strv_push(&a->words, "-chardev");
    strv_pushf(&a->words, "socket,id=qmp,fd=%d,server=on,wait=off", PLAN_FD_QMP);
    push_pair(a, "-mon", "chardev=qmp,mode=control");
    strv_push(&a->words, "-chardev");
    strv_pushf(&a->words, "socket,id=console,fd=%d,server=on,wait=off,logfile=%s/" FILE_CONSOLE_LOG ",logappend=on", PLAN_FD_CONSOLE,
               log_dir);
    push_pair(a, "-serial", "chardev:console");
    push_pair(a, "-display", "none");
    push_pair(a, "-vga", "none");
}

static void push_boot(struct argv *a)
{
    const struct spec *spec = a->in->spec;

    if (spec->boot.firmware)
        push_pair(a, "-bios", spec->boot.firmware);
    if (spec->boot.kernel)
        push_pair(a, "-kernel", spec->boot.kernel);
    if (spec->boot.initrd)
        push_pair(a, "-initrd", spec->boot.initrd);
    if (spec->boot.cmdline)
        push_pair(a, "-append", spec->boot.cmdline);
}

int argv_build(struct argv *a)
{
    const struct spec *spec = a->in->spec;

    strv_push(&a->words, a->in->qemu_path);
    strv_push(&a->words, "-name");
    strv_pushf(&a->words, "guest=%s,debug-threads=on", spec->name);
    strv_push(&a->words, "-nodefaults");
    strv_push(&a->words, "-no-user-config");
    strv_push(&a->words, "-S");
    push_pair(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    push_machine(a);
    push_monitor_and_console(a);
    push_boot(a);
    argv_push_extras(a);
    argv_push_networks(a);
    argv_push_disks(a);
    for (size_t i = 0; spec->qemu.extra_args && spec->qemu.extra_args[i]; i++)
        strv_push(&a->words, spec->qemu.extra_args[i]);
    return a->words.failed ? -ENOMEM : 0;
}
