#include "lib/manager/snapshots.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/state.h"
#include "proto/memory_image.h"

/* Behind ".NAME": no snapshot can have such a name, and none of the one is one of the other, whatever NAME is. */
#define TOMBSTONE_SUFFIX ".deleted"
#define TEMPORARY_SUFFIX ".tmp"

enum { BLOCK = 512 }; /* of st_blocks, stat(2) */

void snapshot_info_clear(struct snapshot_info *info)
{
    free(info->vm);
    free(info->name);
    free(info->damaged);
    snapshot_clear(&info->found);
    *info = (struct snapshot_info){ 0 };
}

void snapshot_list_clear(struct snapshot_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        snapshot_info_clear(&list->items[i]);
    free(list->items);
    *list = (struct snapshot_list){ 0 };
}

int snapshots_open(int store_fd, const char *vm, const char *name)
{
    auto_fd int fd = -1;
    int r;

    if (!name_is_valid(vm) || !name_is_valid(name))
        return -ENOENT;
    fd = dir_open(store_fd, vm);
    r = fd < 0 ? fd : dir_open(fd, name);
    return r == -ENOTDIR || r == -ELOOP ? -ENOENT : r;
}

/* Calls `each` for every name in the folder but . and .. */
static int each_entry(int folder_fd, int (*each)(void *arg, int folder_fd, const char *name), void *arg)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        if (!streq(entry->d_name, ".") && !streq(entry->d_name, ".."))
            r = each(arg, folder_fd, entry->d_name);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

/* ---- reading ---- */

static int add_blocks(void *arg, int folder_fd, const char *name)
{
    uint64_t *bytes = arg;
    struct stat st;

    if (fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode))
        *bytes += (uint64_t)st.st_blocks * BLOCK;
    return 0;
}

static uint64_t disk_bytes(int folder_fd)
{
    auto_fd int disks = dir_open(folder_fd, FOLDER_DISKS);
    uint64_t bytes = 0;

    (void)each_entry(folder_fd, add_blocks, &bytes);
    if (disks >= 0)
        (void)each_entry(disks, add_blocks, &bytes);
    return bytes;
}

static int read_record(int folder_fd, struct snapshot *ret, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = file_read(folder_fd, FILE_SNAPSHOT, RECORD_MAX, &text, &len);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        return err_set_errno(err, -r, "bad-snapshot", "%s", FILE_SNAPSHOT);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = snapshot_from_json(json, ret, err);
    if (r < 0 && r != -ENOMEM)
        err_prefix(err, "%s", FILE_SNAPSHOT);
    return r;
}

static int check_file(int folder_fd, const char *file, uint64_t size, struct err *err)
{
    struct stat st;

    if (fstatat(folder_fd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set_errno(err, errno, "bad-snapshot", "%s", file);
    if (!S_ISREG(st.st_mode))
        return err_set(err, EINVAL, "bad-snapshot", "%s is not a file", file);
    if ((uint64_t)st.st_size != size)
        return err_set(err, EINVAL, "bad-snapshot", "%s has %llu bytes, expected %llu", file, (unsigned long long)st.st_size,
                       (unsigned long long)size);
    return 0;
}

static int check_folder(int folder_fd, const struct snapshot_info *info, struct err *err)
{
    const struct snapshot *s = &info->found;
    int r;

    /* A folder that was moved would be taken for another VM's. */
    if (!streq(s->vm, info->vm) || !streq(s->name, info->name))
        return err_set(err, EINVAL, "bad-snapshot", "%s is the record of %s/%s", FILE_SNAPSHOT, s->vm, s->name);
    r = check_file(folder_fd, FILE_MEMORY, s->ram_size, err);
    if (r >= 0)
        r = check_file(folder_fd, FILE_MEMORY_INDEX, memory_index_file_max(s->ram_size), err);
    return r < 0 ? r : check_file(folder_fd, FILE_DEVICE_STATE, s->state_size, err);
}

int snapshots_read(int store_fd, const char *vm, const char *name, struct snapshot_info *ret_info)
{
    auto_fd int fd = snapshots_open(store_fd, vm, name);
    auto_snapshot_info struct snapshot_info info = { 0 };
    struct err err = ERR_INIT;
    int r;

    if (fd == -ENOENT)
        return fd;
    if (str_set(&info.vm, vm) < 0 || str_set(&info.name, name) < 0)
        return -ENOMEM;
    if (fd < 0) {
        r = err_set_errno(&err, -fd, "bad-snapshot", "its folder");
    } else {
        info.disk_bytes = disk_bytes(fd);
        info.working_set = faccessat(fd, FILE_WORKING_SET, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
        r = read_record(fd, &info.found, &err);
        if (r >= 0)
            r = check_folder(fd, &info, &err);
    }
    if (r == -ENOMEM || (r < 0 && str_set(&info.damaged, err.text) < 0))
        return -ENOMEM;
    *ret_info = info;
    info = (struct snapshot_info){ 0 };
    return 0;
}

struct listing {
    int store_fd;
    const char *vm;
    struct snapshot_list list;
};

static int list_snapshot(void *arg, int folder_fd, const char *name)
{
    struct listing *l = arg;
    struct snapshot_info info = { 0 }, *longer;
    int r = name_is_valid(name) ? snapshots_read(l->store_fd, l->vm, name, &info) : -ENOENT;

    if (r < 0)
        return r == -ENOENT ? 0 : r;
    longer = reallocarray(l->list.items, l->list.n + 1, sizeof(*longer));
    if (!longer) {
        snapshot_info_clear(&info);
        return -ENOMEM;
    }
    l->list.items = longer;
    longer[l->list.n++] = info;
    return 0;
}

static int list_vm(void *arg, int store_fd, const char *vm)
{
    struct listing *l = arg;
    auto_fd int fd = name_is_valid(vm) ? dir_open(store_fd, vm) : -ENOENT;

    l->vm = vm;
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR || fd == -ELOOP ? 0 : fd;
    return each_entry(fd, list_snapshot, l);
}

static int by_vm_and_time(const void *a, const void *b)
{
    const struct snapshot_info *left = a, *right = b;
    int order = strverscmp(left->vm, right->vm);

    if (order == 0 && left->found.created != right->found.created)
        order = left->found.created < right->found.created ? -1 : 1;
    return order != 0 ? order : strverscmp(left->name, right->name);
}

int snapshots_list(int store_fd, const char *vm, struct snapshot_list *ret_list)
{
    struct listing l = { .store_fd = store_fd };
    int r = vm ? list_vm(&l, store_fd, vm) : each_entry(store_fd, list_vm, &l);

    if (r < 0) {
        snapshot_list_clear(&l.list);
        return r;
    }
    if (l.list.n > 0)
        qsort(l.list.items, l.list.n, sizeof(*l.list.items), by_vm_and_time);
    *ret_list = l.list;
    return 0;
}

static bool needs(const struct snapshot_info *info, const char *prefix)
{
    const struct snapshot *s = &info->found;

    if (!s->id)
        return true;
    for (size_t d = 0; d < s->n_disks; d++)
        for (size_t k = 0; k < s->disks[d].n_layers; k++)
            if (has_prefix(s->disks[d].layers[k].path, prefix))
                return true;
    return false;
}

int snapshots_need(int store_fd, const char *prefix)
{
    auto_snapshot_list struct snapshot_list list = { 0 };
    int r = snapshots_list(store_fd, NULL, &list);

    for (size_t i = 0; r >= 0 && i < list.n; i++) {
        if (needs(&list.items[i], prefix))
            return 1;
    }
    return r;
}

/* ---- changing ---- */

int snapshots_make_folder(int store_fd, const char *vm)
{
    if (mkdirat(store_fd, vm, FOLDER_MODE) < 0)
        return errno == EEXIST ? 0 : -errno;
    return fsync(store_fd) < 0 ? -errno : 0;
}

void snapshots_drop_folder(int store_fd, const char *vm) { (void)unlinkat(store_fd, vm, AT_REMOVEDIR); }

/* Who needs pages of it holds its lock, shim or not. The descriptor; -ENOENT: it has no memory; -EBUSY. */
static int lock_memory(int vm_fd, const char *name)
{
    auto_fd int dir = dir_open(vm_fd, name), fd = -1;

    if (dir < 0)
        return dir;
    fd = openat(dir, FILE_MEMORY, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -ENOENT;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? -EBUSY : -ENOENT;
    return steal_fd(&fd);
}

int snapshots_delete(int store_fd, const char *vm, const char *name)
{
    char tombstone[SNAPSHOT_PATH_MAX + sizeof(TOMBSTONE_SUFFIX)];
    auto_fd int fd = dir_open(store_fd, vm), lock = -1;
    int r;

    if (fd < 0)
        return fd;
    lock = lock_memory(fd, name);
    if (lock == -EBUSY)
        return lock;
    snprintf(tombstone, sizeof(tombstone), ".%s" TOMBSTONE_SUFFIX, name);
    r = dir_remove_tree(fd, tombstone);
    if (r < 0)
        return r;
    if (renameat(fd, name, fd, tombstone) < 0)
        return -errno;
    if (fsync(fd) < 0)
        return -errno;
    FAILPOINT("manager.snapshot-after-tombstone");
    r = dir_remove_tree(fd, tombstone);
    if (r >= 0)
        snapshots_drop_folder(store_fd, vm);
    return r;
}

struct sweeping {
    bool writing; /* a shim may be at it */
    const char *vm;
    int run_vms_fd;
    unsigned removed;
};

static bool is_hidden(const char *name, const char *suffix)
{
    size_t len = strlen(name), end = strlen(suffix);

    return name[0] == '.' && len > end + 1 && streq(name + len - end, suffix);
}

static int sweep_entry(void *arg, int folder_fd, const char *name)
{
    struct sweeping *s = arg;
    int r;

    if (!is_hidden(name, TOMBSTONE_SUFFIX) && (s->writing || !is_hidden(name, TEMPORARY_SUFFIX)))
        return 0;
    r = dir_remove_tree(folder_fd, name);
    if (r < 0)
        log_warning("can't remove %s/%s, which an operation on a snapshot left: %s", s->vm, name, strerror(-r));
    else
        s->removed++;
    return 0;
}

static int sweep_vm(void *arg, int store_fd, const char *vm)
{
    struct sweeping *s = arg;
    char path[VM_PATH_MAX];
    auto_fd int fd = name_is_valid(vm) ? dir_open(store_fd, vm) : -ENOENT;

    if (fd < 0)
        return 0;
    s->vm = vm;
    s->writing = lock_is_held(s->run_vms_fd, name_path(vm, FILE_SHIM_LOCK, path)) != 0;
    return each_entry(fd, sweep_entry, s);
}

unsigned snapshots_sweep(int store_fd, int run_vms_fd)
{
    struct sweeping s = { .run_vms_fd = run_vms_fd };

    (void)each_entry(store_fd, sweep_vm, &s);
    return s.removed;
}

/* ---- telling ---- */

json_t *snapshot_to_wire_consume(const struct snapshot_info *info, json_t *in_use_by)
{
    const struct snapshot *s = &info->found;
    json_int_t present = (json_int_t)s->present_pages * (json_int_t)s->page_size;
    char created[CLOCK_TEXT_MAX];

    return json_pack("{s:s, s:s, s:s, s:o*, s:b, s:I, s:I, s:I, s:I, s:b, s:o, s:o*}", "vm", info->vm, "name", info->name, "id",
                     s->id ? s->id : "", "created", s->created ? json_string(clock_format(s->created, created)) : NULL, "live",
                     (int)s->live, "pause_us", (json_int_t)s->pause_us, "ram_size", (json_int_t)s->ram_size, "present", present, "disk",
                     (json_int_t)info->disk_bytes, "working_set", (int)info->working_set, "in_use_by", in_use_by, "damaged",
                     json_text(info->damaged));
}

void snapshots_default_name(char buf[SNAPSHOT_NAME_MAX])
{
    time_t now = time(NULL);
    struct tm tm;

    if (!localtime_r(&now, &tm) || strftime(buf, SNAPSHOT_NAME_MAX, "%Y%m%d-%H%M%S", &tm) == 0)
        snprintf(buf, SNAPSHOT_NAME_MAX, "%lld", (long long)now);
}
