/* Names for frozen files. A name (link(2)) costs nothing and lives as long as it is needed: with one in each snapshot that consists of a
 * file, and one in each VM that does, any of them can be deleted in any order. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/util.h"
#include "lib/qemu/chains.h"
#include "shim/layers.h"
#include "shim/overlay.h"

static int open_layer(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return err_set_errno(err, errno, "bad-disk", "can't open %s", path);
    return fd;
}

/* 1: `fd` has the name; 0: it can't have one there. By /proc, since AT_EMPTY_PATH needs a capability: linkat(2). */
static int try_link(int fd, int folder_fd, const char *name, const char *path, struct err *err)
{
    char proc[32];
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_set_errno(err, errno, "bad-disk", "can't look at %s", path);
    if (!S_ISREG(st.st_mode))
        return 0;
    snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
    if (linkat(AT_FDCWD, proc, folder_fd, name, AT_SYMLINK_FOLLOW) == 0)
        return 1;
    if (errno == EXDEV || errno == EPERM || errno == EACCES || errno == EMLINK || errno == EOPNOTSUPP || errno == ENOSYS)
        return 0;
    return err_set_errno(err, errno, "bad-disk", "can't give %s the name %s", path, name);
}

/* A file of this VM's own: one of our overlays, which the sweep would take for one of an earlier state of the VM, or a disk, which may be made
 * anew at each start. Without write permission neither is removed. QEMU has it open already. */
static int protect(const struct freeze *freeze, int fd, const char *path, struct err *err)
{
    size_t len = strlen(freeze->folder) - strlen("/" FOLDER_LAYERS);
    const char *name = path + len + 1;

    if (strncmp(path, freeze->folder, len) != 0 || path[len] != '/')
        return 0;
    if (has_prefix(name, FOLDER_LAYERS "/"))
        name += strlen(FOLDER_LAYERS "/");
    if (strchr(name, '/'))
        return 0;
    return fchmod(fd, 0440) < 0 ? err_set_errno(err, errno, "bad-disk", "can't protect %s, which has no other name", path) : 0;
}

struct naming {
    const struct freeze *freeze;
    int folder_fd; /* a snapshot's disks/, and its path */
    const char *path;
};

static int link_layer(const struct naming *to, const struct frozen_disk *disk, size_t k, struct snapshot_layer *layer, struct err *err)
{
    auto_free char *name = NULL, *path = NULL;
    auto_fd int opened = -1;
    int fd = disk->frozen_fd, r;

    if (k > 0 || disk->readonly)
        fd = opened = open_layer(layer->path, err);
    if (fd < 0)
        return fd;
    r = k > 0 ? str_format(&name, "%s-%zu.%s", disk->node, k, layer->format) : str_format(&name, "%s.%s", disk->node, layer->format);
    if (r < 0 || str_format(&path, "%s/%s", to->path, name) < 0)
        return -ENOMEM;
    if (k == 0 && fsync(fd) < 0)
        return err_set_errno(err, errno, "bad-disk", "can't sync %s", layer->path);
    r = try_link(fd, to->folder_fd, name, layer->path, err);
    if (r == 0)
        return protect(to->freeze, fd, layer->path, err);
    if (r > 0) {
        free(layer->path);
        layer->path = steal_ptr(&path);
    }
    return r < 0 ? r : 0;
}

static int link_disk(const struct naming *to, const struct frozen_disk *disk, struct snapshot_disk *ret, struct err *err)
{
    int r = 0;

    if (str_set(&ret->node, disk->node) < 0 || layers_copy(disk->layers, disk->n_layers, &ret->layers) < 0)
        return -ENOMEM;
    ret->n_layers = disk->n_layers;
    ret->readonly = disk->readonly;
    ret->size = disk->size;
    for (size_t k = 0; k < ret->n_layers && (!disk->readonly || disk->made) && r >= 0; k++)
        r = link_layer(to, disk, k, &ret->layers[k], err);
    return r;
}

static void free_disks(struct snapshot_disk *disks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(disks[i].node);
        layers_free(disks[i].layers, disks[i].n_layers);
    }
    free(disks);
}

int layers_link(const struct freeze *freeze, int disks_fd, const char *disks_path, struct snapshot *ret_snapshot, struct err *err)
{
    const struct naming to = { .freeze = freeze, .folder_fd = disks_fd, .path = disks_path };
    struct snapshot_disk *disks = calloc(freeze->n_disks > 0 ? freeze->n_disks : 1, sizeof(*disks));
    int r = disks ? 0 : -ENOMEM;

    for (size_t i = 0; i < freeze->n_disks && r >= 0; i++)
        r = link_disk(&to, &freeze->disks[i], &disks[i], err);
    if (r >= 0 && fsync(disks_fd) < 0)
        r = err_set_errno(err, errno, "bad-disk", "can't sync %s", disks_path);
    if (r < 0) {
        free_disks(disks, disks ? freeze->n_disks : 0);
        return r;
    }
    free_disks(ret_snapshot->disks, ret_snapshot->n_disks);
    ret_snapshot->disks = disks;
    ret_snapshot->n_disks = freeze->n_disks;
    return 0;
}

struct restoring {
    int state_fd;
    const struct plan *plan;
    int folder; /* STATE/vms/NAME/layers */
    uint64_t number;
    struct disks *record;
};

/* A snapshot's file under a name of this VM's, where it can have one. */
static int take_layer(struct restoring *to, const char *node, struct snapshot_layer *layer, struct err *err)
{
    auto_free char *name = NULL, *path = NULL;
    auto_fd int fd = open_layer(layer->path, err);
    int r;

    if (fd < 0)
        return fd;
    if (str_format(&name, "%s-%" PRIu64 ".%s", node, to->number, layer->format) < 0 ||
        str_format(&path, "%s/" FOLDER_LAYERS "/%s", to->plan->state_dir, name) < 0)
        return -ENOMEM;
    r = try_link(fd, to->folder, name, layer->path, err);
    if (r > 0) {
        to->number++;
        free(layer->path);
        layer->path = steal_ptr(&path);
    }
    return r < 0 ? r : 0;
}

static int put_overlay(struct restoring *to, const struct snapshot_disk *disk, struct snapshot_layer *layers, struct err *err)
{
    auto_free char *name = NULL;
    auto_fd int fd = -1;

    if (str_format(&name, "%s-%" PRIu64 ".qcow2", disk->node, to->number) < 0 ||
        str_format(&layers[0].path, "%s/" FOLDER_LAYERS "/%s", to->plan->state_dir, name) < 0 || str_set(&layers[0].format, "qcow2") < 0)
        return -ENOMEM;
    fd = overlay_create(to->folder, name, &layers[1], disk->size, err);
    return fd < 0 ? fd : 0;
}

static int restore_written(struct restoring *to, const struct chain *chain, const struct snapshot_disk *disk, struct err *err)
{
    struct snapshot_layer *layers = NULL;
    auto_fd int folder = layers_folder(to->state_fd, chain->index, &to->number);
    int r;

    if (folder < 0)
        return err_set_errno(err, -folder, "no-overlay", "can't use %s/" FOLDER_LAYERS, to->plan->state_dir);
    to->folder = folder;
    layers = calloc(1 + disk->n_layers, sizeof(*layers));
    r = layers ? 0 : -ENOMEM;
    for (size_t k = 0; k < disk->n_layers && r >= 0; k++) {
        r = str_set(&layers[1 + k].path, disk->layers[k].path) < 0 || str_set(&layers[1 + k].format, disk->layers[k].format) < 0 ? -ENOMEM
                                                                                                                                 : 0;
        if (r >= 0)
            r = take_layer(to, disk->node, &layers[1 + k], err);
    }
    if (r >= 0)
        r = put_overlay(to, disk, layers, err);
    if (r >= 0)
        r = disks_set(to->record, chain->layers[0].path, layers, 1 + disk->n_layers);
    layers_free(layers, layers ? 1 + disk->n_layers : 0);
    return r;
}

/* A disk made of files is the snapshot's, to the byte, until the next boot: the guest may have it mounted. */
static int restore_made(struct restoring *to, const struct chain *chain, const struct snapshot_disk *disk, struct err *err)
{
    struct snapshot_layer *layers = NULL;
    auto_fd int folder = layers_folder(to->state_fd, chain->index, &to->number);
    int r;

    if (folder < 0)
        return err_set_errno(err, -folder, "no-overlay", "can't use %s/" FOLDER_LAYERS, to->plan->state_dir);
    to->folder = folder;
    r = layers_copy(disk->layers, disk->n_layers, &layers);
    for (size_t k = 0; k < disk->n_layers && r >= 0; k++)
        r = take_layer(to, disk->node, &layers[k], err);
    if (r >= 0)
        r = disks_set(to->record, chain->layers[0].path, layers, disk->n_layers);
    layers_free(layers, layers ? disk->n_layers : 0);
    return r;
}

/* As the plan says, when that names what the guest had; a clone of a VM with a read-only disk of its own has another path for it. */
static int restore_read(struct restoring *to, const struct chain *chain, const struct snapshot_disk *disk, struct err *err)
{
    if (plan_disk_is_made(to->plan, chain->layers[0].path))
        return restore_made(to, chain, disk, err);
    const struct disk_layers *entry = disks_find(to->record, chain->layers[0].path);

    if (streq(disk->layers[0].path, entry ? entry->layers[0].path : chain->layers[0].path))
        return 0;
    return disks_set(to->record, chain->layers[0].path, disk->layers, disk->n_layers);
}

static int check_same(const struct chains *chains, const struct snapshot *snapshot, struct err *err)
{
    static const char *const kinds[] = { "writable", "read-only" };

    if (chains->n != snapshot->n_disks)
        return err_set(err, EINVAL, "other-disks",
                       "snapshot %s has %zu disks, the VM has %zu; restore it into a VM with the disks of the snapshot's spec",
                       snapshot->name, snapshot->n_disks, chains->n);
    for (size_t i = 0; i < chains->n; i++) {
        const struct snapshot_disk *disk = &snapshot->disks[i];
        const struct chain *chain = &chains->items[i];

        if (!streq(disk->node, chain->node) || disk->readonly != chain->readonly)
            return err_set(
                err, EINVAL, "other-disks",
                "disk %zu of snapshot %s is %s (%s), the VM's is %s (%s); restore it into a VM with the disks of the snapshot's spec", i,
                snapshot->name, disk->node, kinds[disk->readonly], chain->node, kinds[chain->readonly]);
        if (disk->n_layers >= LAYERS_MAX && !disk->readonly)
            return err_set(err, EMLINK, "too-many-layers", "%s of snapshot %s consists of %zu files already, an overlay needs one more",
                           disk->node, snapshot->name, disk->n_layers);
    }
    return 0;
}

int layers_restore(int state_fd, const struct plan *plan, const struct snapshot *snapshot, const struct disks *old, struct disks *ret_disks,
                   struct err *err)
{
    auto_disks struct disks record = { 0 };
    auto_layered struct layered layered = { 0 };
    struct restoring to = { .state_fd = state_fd, .plan = plan, .record = &record };
    struct chains chains;
    int r = chains_of_plan(plan, &chains, err);

    if (r >= 0)
        r = check_same(&chains, snapshot, err);
    if (r >= 0)
        r = disks_copy(old, &record);
    for (size_t i = 0; i < chains.n && r >= 0; i++)
        r = snapshot->disks[i].readonly ? restore_read(&to, &chains.items[i], &snapshot->disks[i], err)
                                        : restore_written(&to, &chains.items[i], &snapshot->disks[i], err);
    if (r >= 0)
        r = layers_apply(plan, &record, &layered, err); /* all that would be refused at the launch is refused here */
    if (r < 0)
        return r;
    *ret_disks = record;
    record = (struct disks){ 0 };
    return 0;
}

static int sync_top(int folder, const struct disk_layers *disk)
{
    const char *slash = strrchr(disk->layers[0].path, '/');
    auto_fd int fd = slash ? openat(folder, slash + 1, O_RDONLY | O_NOFOLLOW | O_CLOEXEC) : -1;

    if (fd < 0) /* somebody's own file: a read-only disk */
        return 0;
    return fsync(fd) < 0 ? -errno : 0;
}

int layers_sync(int state_fd, const struct disks *disks, struct err *err)
{
    auto_fd int folder = disks->n_disks > 0 ? dir_open(state_fd, FOLDER_LAYERS) : -1;
    int r = 0;

    if (folder == -ENOENT || disks->n_disks == 0)
        return 0;
    if (folder < 0)
        r = folder;
    for (size_t i = 0; i < disks->n_disks && r >= 0; i++)
        r = sync_top(folder, &disks->disks[i]);
    if (r >= 0 && (fsync(folder) < 0 || fsync(state_fd) < 0))
        r = -errno;
    return r < 0 ? err_set_errno(err, -r, "no-overlay", "can't sync " FOLDER_LAYERS) : 0;
}
