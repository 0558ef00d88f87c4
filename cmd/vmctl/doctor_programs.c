/* The programs VMs need, and whether what runs is what is installed. */
#include <sys/utsname.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/output.h"
#include "lib/base/program.h"
#include "lib/base/strv.h"
#include "lib/qemu/capabilities.h"

enum {
    INFO_TIMEOUT_MS = 2000,
    NAMES_SHOWN = 5,
    QEMU_MAJOR_MIN = 7, /* x-ignore-shared together with the shim's memfd was tried from 7.2 on */
    QEMU_MINOR_MIN = 2,
};

/* Where it is looked for below a root; of this host, the library knows. */
static char *qemu_path(const struct doctor *d)
{
    struct utsname host;
    char *path = NULL;
    const char *found = *d->root ? NULL : qemu_default_path();

    if (found)
        return must(strdup(found));
    if (!*d->root || uname(&host) < 0)
        return NULL;
    if (str_format(&path, "/usr/bin/qemu-system-%s", host.machine) < 0)
        must(NULL);
    return path;
}

static bool is_older(const char *version)
{
    unsigned major = 0, minor = 0;
    const char *at = version;

    for (; *at >= '0' && *at <= '9' && major < 1000; at++)
        major = major * 10 + (unsigned)(*at - '0');
    for (at += *at == '.'; *at >= '0' && *at <= '9' && minor < 1000; at++)
        minor = minor * 10 + (unsigned)(*at - '0');
    return major < QEMU_MAJOR_MIN || (major == QEMU_MAJOR_MIN && minor < QEMU_MINOR_MIN);
}

static void check_qemu_binary(struct doctor *d)
{
    static const char *const version[] = { "-version", NULL }, *const machine[] = { "-machine", "help", NULL };
    auto_free char *path = qemu_path(d), *version_text = NULL, *machine_text = NULL;
    struct qemu_capabilities c = { 0 };
    struct err err = ERR_INIT;
    bool found = false;

    if (path)
        version_text = doctor_output(d, path, version, &found);
    if (!found) {
        doctor_find(d, VERDICT_PROBLEM, "apt install qemu-system-x86, or name one in each spec (qemu.path)", "there is no QEMU");
        return;
    }
    machine_text = doctor_output(d, path, machine, &found);
    if (!version_text || !machine_text || qemu_capabilities_parse(version_text, machine_text, &c, &err) < 0)
        doctor_find(d, VERDICT_PROBLEM, "reinstall it, or name another in each spec (qemu.path)", "%s: %s", path,
                    err_is_set(&err) ? err.text : "doesn't run");
    else if (is_older(c.version))
        doctor_find(d, VERDICT_WARNING, "use QEMU 7.2 or later", "%s: version %s is older than any this was tried with", path, c.version);
    else
        doctor_find(d, VERDICT_OK, NULL, "%s: version %s, machine %s", path, c.version, c.machine);
    qemu_capabilities_clear(&c);
}

void doctor_check_qemu(struct doctor *d)
{
    static const char *const words[] = { "--version", NULL };
    bool found;

    check_qemu_binary(d);
    free(doctor_output(d, "/usr/local/bin/qemu-img /usr/bin/qemu-img /bin/qemu-img", words, &found));
    if (!found)
        doctor_find(d, VERDICT_PROBLEM, "apt install qemu-utils", "there is no qemu-img: disks can't be made, nor snapshots of them");
}

/* The shim beside this program. */
static void check_shim_program(struct doctor *d)
{
    auto_free char *path = NULL;
    struct err err = ERR_INIT;

    if (*d->root)
        return;
    if (program_find("holdfast-shim", &path, &err) < 0)
        doctor_find(d, VERDICT_PROBLEM, "install the package holdfast again", "%s: no VM can be started", err.text);
}

static void check_manager(struct doctor *d)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_free char *path = manager_socket(d->in);
    auto_json json_t *info = NULL;
    struct err err = ERR_INIT;

    /* A made-up host has files, but nobody who answers. */
    if (*d->root)
        return;
    if (varlink_client_connect(path, &client, &err) < 0 ||
        varlink_client_call_consume(client, "org.varlink.service.GetInfo", NULL, INFO_TIMEOUT_MS, &info, &err) < 0) {
        doctor_find(d, VERDICT_WARNING, d->systemd ? "systemctl start holdfastd" : "start holdfastd", "no manager answers: %s", err.text);
        return;
    }
    const char *version = member_text(info, "version");
    if (streq(version, HOLDFAST_VERSION))
        doctor_find(d, VERDICT_OK, NULL, "the manager is %s, as is vmctl", version);
    else
        doctor_find(d, VERDICT_WARNING, "restart it; whether that keeps the VMs is told above", "the manager is %s, vmctl is %s", version,
                    HOLDFAST_VERSION);
}

/* One line for each version that isn't ours. An old shim goes on working for a new manager. */
static void check_shims(struct doctor *d)
{
    auto_json json_t *versions = must_json(json_object());
    const char *version;
    json_t *names;
    size_t same = 0, i;

    for (i = 0; i < d->n_vms; i++) {
        const struct doctor_vm *vm = &d->vms[i];

        if (!vm->shim_lives)
            continue;
        version = vm->status.version ? vm->status.version : "?";
        if (streq(version, HOLDFAST_VERSION)) {
            same++;
            continue;
        }
        names = json_object_get(versions, version);
        if (!names) {
            names = must_json(json_array());
            json_object_set_new(versions, version, names);
        }
        json_array_append_new(names, must_json(json_string(vm->name)));
    }
    if (same)
        doctor_find(d, VERDICT_OK, NULL, "%zu shim%s of the installed version, %s", same, same == 1 ? " is" : "s are", HOLDFAST_VERSION);
    json_object_foreach (versions, version, names) {
        auto_free char *list = must(strdup(""));
        size_t n = json_array_size(names);

        for (i = 0; i < n && i < NAMES_SHOWN; i++) {
            char *longer = NULL;

            if (str_format(&longer, "%s%s%s", list, *list ? ", " : "", json_string_value(json_array_get(names, i))) < 0)
                must(NULL);
            free(list);
            list = longer;
        }
        doctor_find(d, VERDICT_NOTE, "they work as they are; a VM gets a new one when it is restarted",
                    "%s%s: shim of version %s, installed is %s", list, n > NAMES_SHOWN ? " and more" : "", version, HOLDFAST_VERSION);
    }
}

/* QEMU lives and its shim doesn't. */
static void check_orphans(struct doctor *d)
{
    for (size_t i = 0; i < d->n_vms; i++)
        if (d->vms[i].qemu_lives && !d->vms[i].shim_lives)
            doctor_find(d, VERDICT_WARNING, "a manager that runs sees to it; or: vmctl shim adopt",
                        "%s: QEMU (pid %" PRIu64 ") has no shim", d->vms[i].name, d->vms[i].status.qemu.pid);
}

void doctor_check_versions(struct doctor *d)
{
    check_manager(d);
    check_shim_program(d);
    check_shims(d);
    check_orphans(d);
}
