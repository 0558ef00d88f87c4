/* What only this host can say of a spec. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"

/* `mode` as for access(2), tried with the effective ids. */
static void check_file(struct problems *p, const char *pointer, const char *path, int mode)
{
    struct stat st;
    const char *action = (mode & X_OK) ? "executed" : (mode & W_OK) ? "written" : "read";

    if (!path)
        return;
    if (stat(path, &st) < 0)
        problem_add(p, "%s: '%s' can't be found: %s", pointer, path, strerror(errno));
    else if (S_ISDIR(st.st_mode))
        problem_add(p, "%s: '%s' is a folder", pointer, path);
    else if (faccessat(AT_FDCWD, path, mode, AT_EACCESS) < 0)
        problem_add(p, "%s: '%s' can't be %s: %s", pointer, path, action, strerror(errno));
}

static void check_folder(struct problems *p, const char *pointer, const char *path)
{
    struct stat st;

    if (!path)
        return;
    if (stat(path, &st) < 0)
        problem_add(p, "%s: '%s' can't be found: %s", pointer, path, strerror(errno));
    else if (!S_ISDIR(st.st_mode))
        problem_add(p, "%s: '%s' is not a folder", pointer, path);
    else if (faccessat(AT_FDCWD, path, R_OK | X_OK, AT_EACCESS) < 0)
        problem_add(p, "%s: '%s' can't be read: %s", pointer, path, strerror(errno));
}

static int check_content(const struct spec *spec, struct problems *p)
{
    check_folder(p, "/config_disk/directory", spec->config_disk.directory);
    for (size_t i = 0; i < spec->config_disk.n_files; i++) {
        auto_free char *pointer = NULL;

        if (spec_file_pointer(spec->config_disk.files[i].key, &pointer) < 0)
            return -ENOMEM;
        check_file(p, pointer, spec->config_disk.files[i].value, R_OK);
    }
    check_file(p, "/seed/user_data", spec->seed.user_data, R_OK);
    check_file(p, "/seed/meta_data", spec->seed.meta_data, R_OK);
    check_file(p, "/seed/network_config", spec->seed.network_config, R_OK);
    return 0;
}

int spec_check_host(const struct spec *spec, void (*report)(void *arg, const struct err *err), void *arg)
{
    auto_problems struct problems p = { .report = report, .arg = arg };
    char pointer[64];

    check_file(&p, "/boot/kernel", spec->boot.kernel, R_OK);
    check_file(&p, "/boot/initrd", spec->boot.initrd, R_OK);
    check_file(&p, "/boot/firmware", spec->boot.firmware, R_OK);
    check_file(&p, "/qemu/path", spec->qemu.path, X_OK);
    for (size_t i = 0; i < spec->n_disks; i++) {
        snprintf(pointer, sizeof pointer, "/disks/%zu/path", i);
        check_file(&p, pointer, spec->disks[i].path, spec->disks[i].readonly ? R_OK : R_OK | W_OK);
        for (size_t k = 0; spec->disks[i].backing && spec->disks[i].backing[k]; k++) {
            snprintf(pointer, sizeof pointer, "/disks/%zu/backing/%zu", i, k);
            check_file(&p, pointer, spec->disks[i].backing[k], R_OK);
        }
    }
    if (check_content(spec, &p) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < spec->n_network; i++)
        if (spec->network[i].ifname && if_nametoindex(spec->network[i].ifname) == 0)
            problem_add(&p, "/network/%zu/ifname: there is no network device '%s' on this host", i, spec->network[i].ifname);
    return p.paths.failed ? -ENOMEM : p.n;
}
