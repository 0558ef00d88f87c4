#include "lib/manager/forget.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/disk/image.h"
#include "lib/images/use.h"
#include "lib/manager/allocations.h"
#include "lib/manager/hold.h"
#include "lib/manager/registry.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"
#include "lib/manager/watch.h"
#include "proto/disks.h"

/* No VM can have such a name. */
#define TOMBSTONE_PREFIX ".deleted-"

/* Ours: a record, one set aside, or the temporary of one. */
static bool is_record(const char *file)
{
    static const char *const ours[] = { FILE_WANTED, FILE_LAST_EXIT, FILE_EVENTS, FILE_IMAGE_USE };

    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        size_t len = strlen(ours[i]);

        if (streq(file, ours[i]) || (has_prefix(file, ours[i]) && has_prefix(file + len, ".corrupt-")))
            return true;
        if (file[0] == '.' && has_prefix(file + 1, ours[i]) && streq(file + 1 + len, ".tmp"))
            return true;
    }
    return false;
}

/* Calls `each` with every name in the folder but . and .. */
static int list_folder(int parent, const char *name, int (*each)(void *arg, int dirfd, const char *entry), void *arg)
{
    int fd = dir_open(parent, name), r = 0;
    const struct dirent *entry;
    DIR *dir;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    dir = fdopendir(fd);
    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        if (!streq(entry->d_name, ".") && !streq(entry->d_name, ".."))
            r = each(arg, dirfd(dir), entry->d_name);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

struct keeping {
    json_t *kept;
    const char *folder, *name;
};

static int note_kept(void *arg, int dirfd, const char *entry)
{
    struct keeping *k = arg;
    auto_free char *path = NULL;

    if (is_record(entry))
        return 0;
    if (str_format(&path, "%s/%s/%s", k->folder, k->name, entry) < 0)
        return -ENOMEM;
    return json_array_append_new(k->kept, json_text(path)) < 0 ? -ENOMEM : 0;
}

static int remove_record(void *arg, int dirfd, const char *entry)
{
    if (!is_record(entry) || streq(entry, FILE_WANTED))
        return 0;
    return unlinkat(dirfd, entry, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* The folder stays for what is in it; wanted.json goes last, since it says that the rest is to go. */
static int remove_records(int state_vms_fd, const char *name)
{
    auto_fd int fd = -1;
    int r;

    r = list_folder(state_vms_fd, name, remove_record, NULL);
    if (r < 0)
        return r;
    fd = dir_open(state_vms_fd, name);
    if (fd < 0)
        return fd;
    if (fsync(fd) < 0)
        return -errno;
    if (unlinkat(fd, FILE_WANTED, 0) < 0 && errno != ENOENT)
        return -errno;
    return fsync(fd) < 0 ? -errno : 0;
}

/* One rename makes it gone; the removal that follows may take its time, and be cut off. */
static int bury(int state_vms_fd, const char *name)
{
    char tombstone[VM_PATH_MAX];
    int r;

    snprintf(tombstone, sizeof(tombstone), TOMBSTONE_PREFIX "%s", name);
    r = dir_remove_tree(state_vms_fd, tombstone);
    if (r < 0)
        return r;
    FAILPOINT("manager.delete-before-tombstone");
    if (renameat(state_vms_fd, name, state_vms_fd, tombstone) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (fsync(state_vms_fd) < 0)
        return -errno;
    FAILPOINT("manager.delete-after-tombstone");
    return dir_remove_tree(state_vms_fd, tombstone);
}

static int remove_spec(int specs_fd, const char *file)
{
    if (unlinkat(specs_fd, file, 0) < 0)
        return errno == ENOENT ? 0 : -errno;
    return fsync(specs_fd) < 0 ? -errno : 0;
}

int run_folder_remove(int folders_fd, const char *name)
{
    auto_fd int fd = dir_open(folders_fd, name), vm_lock = -1, shim_lock = -1;

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    shim_lock = lock_take(fd, FILE_SHIM_LOCK);
    if (shim_lock >= 0)
        vm_lock = lock_take(fd, FILE_VM_LOCK);
    if (shim_lock == -EWOULDBLOCK || vm_lock == -EWOULDBLOCK)
        return -EBUSY;
    if (shim_lock < 0 || vm_lock < 0)
        return shim_lock < 0 ? shim_lock : vm_lock;
    return dir_remove_tree(folders_fd, name);
}

static int remove_logs(const struct forget_dirs *dirs, const char *name, bool purge, json_t *kept)
{
    auto_free char *path = NULL;

    if (purge)
        return dir_remove_tree(dirs->log_fd, name);
    if (faccessat(dirs->log_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (str_format(&path, "%s/%s", dirs->log_path, name) < 0)
        return -ENOMEM;
    return json_array_append_new(kept, json_text(path)) < 0 ? -ENOMEM : 0;
}

struct image_search {
    const char *folder, *name;
    struct err *err;
};

/* A file with more names than this one loses nothing by it: a clone goes on with what it shares with this VM. */
static int check_image(void *arg, int dirfd, const char *entry)
{
    const struct image_search *search = arg;
    auto_free char *path = NULL;
    struct stat st;

    if (is_record(entry) || fstatat(dirfd, entry, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || st.st_nlink > 1)
        return 0;
    if (str_format(&path, "%s/%s/%s", search->folder, search->name, entry) < 0)
        return -ENOMEM;
    return image_check_unused(entry, path, IMAGE_ANY, search->err);
}

static int check_images(const struct forget_dirs *dirs, const char *name, struct err *err)
{
    auto_free char *layers = NULL;
    struct image_search search = { dirs->state_path, name, err };
    int r = list_folder(dirs->state_vms_fd, name, check_image, &search);

    if (r < 0 || str_format(&layers, "%s/" FOLDER_LAYERS, name) < 0)
        return r < 0 ? r : -ENOMEM;
    search.name = layers;
    return list_folder(dirs->state_vms_fd, layers, check_image, &search);
}

int forget_files(const struct forget_dirs *dirs, const char *name, const char *spec_file, bool purge, json_t **ret_kept, struct err *err)
{
    auto_json json_t *kept = json_array();
    struct keeping keeping = { kept, dirs->state_path, name };
    bool files_kept;
    int r;

    if (!kept)
        return -ENOMEM;
    /* The spec before the wish: with the wish that says deleting no manager starts the VM again, and without the spec none does. */
    r = purge ? check_images(dirs, name, err) : 0;
    if (r >= 0)
        r = run_folder_remove(dirs->run_vms_fd, name);
    if (r >= 0)
        r = remove_spec(dirs->specs_fd, spec_file);
    if (r >= 0 && !purge)
        r = list_folder(dirs->state_vms_fd, name, note_kept, &keeping);
    if (r < 0)
        return r;
    files_kept = json_array_size(kept) > 0;
    r = remove_logs(dirs, name, purge, kept);
    FAILPOINT("manager.delete-before-wanted");
    if (r >= 0)
        r = files_kept ? remove_records(dirs->state_vms_fd, name) : bury(dirs->state_vms_fd, name);
    if (r < 0)
        return r;
    *ret_kept = steal_ptr(&kept);
    return 0;
}

struct forget_job {
    struct job job;
    struct vm *vm;
    char *spec_file;
    bool purge;
    json_t *kept;
    int r;
    struct err err;
};

/* Frozen disks are in a snapshot's own folder where the file system has hard links, else where they were: those must outlive the VM. */
static int keep_for_snapshots(const struct manager *m, const char *name, bool *purge)
{
    auto_free char *prefix = NULL;
    int r;

    if (!*purge)
        return 0;
    r = str_format(&prefix, "%s/%s/%s/", m->dirs.state, FOLDER_VMS, name);
    if (r >= 0)
        r = snapshots_need(m->snapshots_fd, prefix);
    if (r <= 0)
        return r;
    log_vm_warning(name, "snapshots need its disks, so they are kept");
    *purge = false;
    return 0;
}

/* They are there on their own. */
static int note_snapshots(const struct manager *m, const char *name, json_t *kept)
{
    auto_free char *path = NULL;

    if (faccessat(m->snapshots_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
        return 0;
    if (str_format(&path, "%s/" FOLDER_SNAPSHOTS "/%s", m->dirs.state, name) < 0)
        return -ENOMEM;
    return json_array_append_new(kept, json_text(path)) < 0 ? -ENOMEM : 0;
}

static void run(struct job *job)
{
    struct forget_job *f = container_of(job, struct forget_job, job);
    const struct manager *m = f->vm->manager;
    auto_free char *state = NULL;
    struct forget_dirs dirs = { m->run_vms_fd, m->state_vms_fd, m->log_fd, m->specs_fd, NULL, m->dirs.log };

    f->r = str_format(&state, "%s/%s", m->dirs.state, FOLDER_VMS);
    if (f->r < 0)
        return;
    dirs.state_path = state;
    f->r = keep_for_snapshots(m, f->vm->name, &f->purge);
    if (f->r >= 0)
        f->r = forget_files(&dirs, f->vm->name, f->spec_file, f->purge, &f->kept, &f->err);
    if (f->r >= 0)
        f->r = note_snapshots(m, f->vm->name, f->kept);
    if (f->r < 0)
        return;
    allocations_drop(m->allocations, f->vm->name);
    f->r = allocations_commit(m->allocations);
}

static void done(struct job *job)
{
    struct forget_job *f = container_of(job, struct forget_job, job);
    struct vm *vm = f->vm;

    vm->forgetting = false;
    watch_release(vm->manager);
    if (f->r < 0) {
        /* It stays as it is, to be tried again by the next delete or the next manager. */
        const char *why = err_is_set(&f->err) ? f->err.text : strerror(-f->r);

        vm_set_view(vm, VIEW_UNKNOWN, "its delete is not finished: %s", why);
        vm->delete_failed = true;
        waiters_delete_failed(vm, why);
    } else {
        log_vm_info(vm->name, "deleted");
        waiters_deleted(vm, f->kept);
        registry_remove(vm);
        hold_freed(vm->manager);
    }
    json_decref(f->kept);
    free(f->spec_file);
    free(f);
    vm_unref(vm);
}

void forget_start(struct vm *vm)
{
    char file[VM_PATH_MAX];
    struct forget_job *f;

    if (vm->forgetting || vm->delete_failed)
        return;
    f = calloc(1, sizeof(*f));
    if (!f || str_set(&f->spec_file, specs_file(vm, file)) < 0) {
        free(f);
        waiters_delete_failed(vm, "out of memory");
        return;
    }
    vm->forgetting = true;
    watch_hold(vm->manager);
    f->vm = vm_ref(vm);
    f->purge = vm->wanted.purge;
    f->job.run = run;
    f->job.done = done;
    worker_add(vm->manager->writer, &f->job);
}

static int remove_leftover(void *arg, int dirfd, const char *entry)
{
    int r;

    if (!has_prefix(entry, TOMBSTONE_PREFIX))
        return 0;
    r = dir_remove_tree(dirfd, entry);
    if (r < 0)
        log_warning("can't remove %s, which a delete left: %s", entry, strerror(-r));
    return 0;
}

void forget_leftovers(struct manager *m) { (void)list_folder(m->state_vms_fd, ".", remove_leftover, NULL); }
