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
    auto_free char *text = NULL;

    if (!owned || json_format(owned, &text, NULL) < 0) {
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

void argv_push_file(struct argv *a, enum file_kind kind, int fd, const char *path)
{
    struct plan_file *files = reallocarray(a->files, a->n_files + 1, sizeof *files);

    if (!files) {
        a->words.failed = true;
        return;
    }
    a->files = files;
    files[a->n_files] = (struct plan_file){ .fd = (uint64_t)fd, .kind = (int)kind };
    if (str_set(&files[a->n_files].path, path) < 0)
        a->words.failed = true;
    else
        a->n_files++;
}

void argv_push_fdset(struct argv *a, enum file_kind kind, int fd, const char *path)
{
    argv_push_file(a, kind, fd, path);
    strv_push(&a->words, "-add-fd");
    strv_pushf(&a->words, "fd=%d,set=%d", fd, fd);
}

static void push_ram(struct argv *a)
{
    const struct spec *spec = a->in->spec;
    auto_free char *ram = NULL;

    if (argv_memory_is_private(a)) {
        argv_push_json(a, "-object",
                       json_pack("{s:s, s:s, s:I}", "qom-type", "memory-backend-ram", "id", "ram", "size", (json_int_t)spec->memory));
        return;
    }
    if (str_format(&ram, "/proc/self/fd/%d", PLAN_FD_RAM) < 0)
        a->words.failed = true;
    else
        argv_push_json(a, "-object",
                       json_pack("{s:s, s:s, s:I, s:s, s:b}", "qom-type", "memory-backend-file", "id", "ram", "size",
                                 (json_int_t)spec->memory, "mem-path", ram, "share", 1));
}

static void push_machine(struct argv *a)
{
    const struct spec *spec = a->in->spec;
    uint64_t mebibytes = spec->memory >> 20;
    auto_free char *cpu = NULL;

    strv_push(&a->words, "-machine");
    strv_pushf(&a->words, "%s,memory-backend=ram,dump-guest-core=off,%s%s%s", a->in->capabilities->machine, families[a->family].options,
               a->kvm ? families[a->family].kvm_options : families[a->family].tcg_options, tee_machine_options(a));
    push_pair(a, "-accel", a->kvm ? "kvm" : "tcg");
    if (tee_cpu(a, &cpu) < 0)
        a->words.failed = true;
    push_pair(a, "-cpu", cpu ? cpu : a->kvm ? "host" : families[a->family].tcg_cpu);
    strv_push(&a->words, "-smp");
    strv_pushf(&a->words, "%" PRIu64, spec->cpus);
    strv_push(&a->words, "-m");
    strv_pushf(&a->words, "%" PRIu64 "M", mebibytes);
    push_ram(a);
    tee_push_object(a);
}

static void push_monitor_and_console(struct argv *a)
{
    auto_free char *log = NULL;

    if (str_format(&log, "%s/" FILE_CONSOLE_LOG, a->in->log_dir) < 0) {
        a->words.failed = true;
        return;
    }
    argv_push_fdset(a, FILE_APPEND, PLAN_FD_CONSOLE_LOG, log);
    strv_push(&a->words, "-chardev");
    strv_pushf(&a->words, "socket,id=qmp,fd=%d,server=on,wait=off", PLAN_FD_QMP);
    push_pair(a, "-mon", "chardev=qmp,mode=control");
    strv_push(&a->words, "-chardev");
    strv_pushf(&a->words, "socket,id=console,fd=%d,server=on,wait=off,logfile=/dev/fdset/%d,logappend=on", PLAN_FD_CONSOLE,
               PLAN_FD_CONSOLE_LOG);
    push_pair(a, "-serial", "chardev:console");
    push_pair(a, "-display", "none");
    push_pair(a, "-vga", "none");
}

static void push_boot_file(struct argv *a, const char *option, int fd, const char *path)
{
    if (!path)
        return;
    argv_push_file(a, FILE_REOPENED, fd, path);
    strv_push(&a->words, option);
    strv_pushf(&a->words, "/proc/self/fd/%d", fd);
}

static void push_boot(struct argv *a)
{
    const struct spec *spec = a->in->spec;

    if (a->in->release_dir)
        argv_push_file(a, FILE_IN_USE, PLAN_FD_RELEASE, a->in->release_dir);
    push_boot_file(a, "-bios", PLAN_FD_FIRMWARE, spec->boot.firmware);
    push_boot_file(a, "-kernel", PLAN_FD_KERNEL, spec->boot.kernel);
    push_boot_file(a, "-initrd", PLAN_FD_INITRD, spec->boot.initrd);
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
    /* QEMU's defaults, said aloud: what the shim makes of each end rests on them (shim/policy.c). */
    push_pair(a, "-action", "reboot=reset,shutdown=poweroff,panic=shutdown,watchdog=reset");
    push_pair(a, "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    push_machine(a);
    push_monitor_and_console(a);
    push_boot(a);
    argv_push_extras(a);
    argv_push_networks(a);
    argv_push_disks(a);
    argv_push_gpus(a);
    for (size_t i = 0; spec->qemu.extra_args && spec->qemu.extra_args[i]; i++)
        strv_push(&a->words, spec->qemu.extra_args[i]);
    return a->words.failed ? -ENOMEM : 0;
}
