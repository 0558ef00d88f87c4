#include "lib/manager/adopt.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/manager/api.h"
#include "lib/manager/down.h"
#include "lib/manager/event_log.h"
#include "lib/manager/hold.h"
#include "lib/manager/link.h"
#include "lib/manager/planner.h"
#include "lib/manager/records.h"
#include "lib/manager/registry.h"
#include "lib/manager/serve.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/varlink/service.h"

/* Calls `each` for every sub-folder with the name of a VM. Symlinks aren't followed: nobody of ours makes any. */
static int each_folder(int folder_fd, int (*each)(struct manager *m, const char *name), struct manager *m)
{
    int fd = fcntl(folder_fd, F_DUPFD_CLOEXEC, 3), r = 0;
    const struct dirent *entry;
    DIR *dir;

    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    rewinddir(dir);
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        if (!name_is_valid(entry->d_name))
            continue;
        if (entry->d_type == DT_DIR || entry->d_type == DT_UNKNOWN)
            r = each(m, entry->d_name);
        else
            log_warning("%s in a folder of VMs is no folder: left alone", entry->d_name);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

static int add_run_folder(struct manager *m, const char *name)
{
    struct vm *vm = registry_get_or_add(m, name);

    if (!vm)
        return -ENOMEM;
    vm->has_run_folder = true;
    return 0;
}

/* A wish makes a VM; a folder with disks that a delete has left doesn't. */
static int read_wanted(struct manager *m, const char *name)
{
    const struct record_dirs dirs = { m->run_vms_fd, m->state_vms_fd };
    auto_wanted struct wanted wanted = { 0 };
    auto_free char *why = NULL;
    struct vm *vm = registry_find(m, name);
    int r;

    r = records_read_wanted(&dirs, name, &wanted, &why);
    if (r == 0)
        return 0;
    if (r == -ENOMEM || (!vm && !(vm = registry_get_or_add(m, name))))
        return -ENOMEM;
    if (r > 0) {
        vm->wanted = wanted;
        wanted = (struct wanted){ 0 };
        vm->has_wanted = true;
        return 0;
    }
    log_vm_error(name, "%s", why ? why : strerror(-r));
    vm->unclear = true;
    (void)str_set(&vm->reason, why ? why : "its wish can't be read");
    return 0;
}

static void ask_shim(struct vm *vm)
{
    char path[VM_PATH_MAX];

    vm->adopting = true;
    vm->manager->adopting++;
    vm->view = VIEW_UNKNOWN;
    if (event_log_newest(vm->manager->state_vms_fd, vm_path(vm, FILE_EVENTS, path), &vm->event_seq) < 0)
        vm->event_seq = 0;
    if (vm->has_run_folder)
        link_open(vm);
    else
        down_begin(vm);
}

int adopt_begin(struct manager *m, struct err *err)
{
    int r;

    r = specs_scan(m, err);
    if (r < 0)
        return r;
    if (map_len(m->vms) > 0)
        planner_warm(m);
    r = each_folder(m->run_vms_fd, add_run_folder, m);
    if (r >= 0)
        r = each_folder(m->state_vms_fd, read_wanted, m);
    if (r < 0)
        return err_set_errno(err, -r, "no-folder", "can't read the folders of VMs");
    /* One more than there are, so that the last of them doesn't begin the serving from within this loop. */
    m->adopting = 1;
    map_foreach (m->vms, e)
        ask_shim(map_value(e));
    m->adopting--;
    hold_begin(m);
    return 0;
}

void adopt_settled(struct vm *vm)
{
    struct manager *m = vm->manager;

    if (!vm->adopting)
        return;
    vm->adopting = false;
    if (--m->adopting == 0)
        serve_begin(m);
}

void api_adopt(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const char *name = json_string_value(json_object_get(parameters, "name"));
    struct manager *m = userdata;
    struct vm *vm;

    if (!name_is_valid(name) || faccessat(m->run_vms_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
        api_no_such_vm(call, name);
        return;
    }
    vm = registry_find(m, name);
    if (!vm) {
        vm = registry_get_or_add(m, name);
        if (!vm) {
            api_fail_memory(call);
            return;
        }
        vm->has_run_folder = true;
        link_open(vm);
        vm_changed(vm);
    }
    varlink_call_reply_consume(call, json_object());
}
