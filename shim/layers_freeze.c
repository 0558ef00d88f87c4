/* Overlays for a snapshot. Which file a disk is written to is taken from QEMU and the kernel, not from our record: a predecessor may have
 * died between the two, and an operator may have put another file in the place of one that QEMU has open. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/qemu/chains.h"
#include "shim/layers.h"
#include "shim/overlay.h"

/* How a descriptor of ours is told from the one a disk was opened by. */
#define FROZEN_MARK "frozen"

static void frozen_disk_clear(struct frozen_disk *disk)
{
    layers_free(disk->layers, disk->n_layers);
    free(disk->top);
    fd_close(disk->written_fd);
    fd_close(disk->frozen_fd);
    fd_close(disk->overlay_fd);
}

void freeze_clear(struct freeze *freeze)
{
    for (size_t i = 0; i < freeze->n_disks; i++)
        frozen_disk_clear(&freeze->disks[i]);
    free(freeze->disks);
    free(freeze->folder);
    disks_clear(&freeze->record);
    *freeze = (struct freeze){ 0 };
}

/* The entry of query-block whose device is the disk's. Devices of a plan have ids, so their place in QEMU's tree is known. */
static const json_t *find_inserted(const json_t *blocks, const char *node)
{
    char place[64];
    const json_t *block;
    size_t i;

    snprintf(place, sizeof(place), "/machine/peripheral/%s/virtio-backend", node);
    json_array_foreach (blocks, i, block) {
        const char *device = json_string_value(json_object_get(block, "qdev"));

        if (device && streq(device, place))
            return json_object_get(block, "inserted");
    }
    return NULL;
}

/* QEMU names an image "/dev/fdset/32", or, when its options are more than a name can say, "json:{…}". */
static int top_set(const char *file, uint64_t *ret_set)
{
    auto_json json_t *json = NULL;
    static const char prefix[] = "json:";

    if (!file || !has_prefix(file, prefix))
        return fdset_of_filename(file, ret_set);
    file += strlen(prefix);
    if (json_parse(file, strlen(file), &json, NULL) < 0)
        return -EINVAL;
    return fdset_of_filename(json_string_value(json_object_get(json_object_get(json, "file"), "filename")), ret_set);
}

static int look_at_top(const struct freeze_input *in, struct frozen_disk *disk, struct err *err)
{
    const json_t *inserted = find_inserted(in->blocks, disk->node);
    const char *top = json_string_value(json_object_get(inserted, "node-name"));
    json_int_t size = json_integer_value(json_object_get(json_object_get(inserted, "image"), "virtual-size"));

    if (!top || size <= 0 || (!disk->readonly && top_set(json_string_value(json_object_get(inserted, "file")), &disk->top_set) < 0))
        return err_set(err, EPROTO, "bad-disk", "QEMU doesn't say what %s is made of", disk->node);
    disk->size = (uint64_t)size;
    return str_set(&disk->top, top);
}

/* The descriptor the set began with, by QEMU's number: not one that layers_frozen_fd() added and a failed snapshot left. */
static int set_member(const json_t *fdsets, uint64_t number)
{
    const json_t *set, *fd;
    size_t i, k;

    json_array_foreach (fdsets, i, set) {
        if (json_integer_value(json_object_get(set, "fdset-id")) != (json_int_t)number)
            continue;
        json_array_foreach (json_object_get(set, "fds"), k, fd) {
            const char *mark = json_string_value(json_object_get(fd, "opaque"));

            if (!streq_opt(mark, FROZEN_MARK) && json_is_integer(json_object_get(fd, "fd")))
                return (int)json_integer_value(json_object_get(fd, "fd"));
        }
    }
    return -ENOENT;
}

/* The file itself, whatever its name leads to by now. */
static int open_top(const struct freeze_input *in, struct frozen_disk *disk, struct err *err)
{
    char path[64];

    disk->top_fd = set_member(in->fdsets, disk->top_set);
    if (disk->top_fd < 0)
        return err_set(err, EPROTO, "bad-disk", "QEMU has no descriptor of %s", disk->node);
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)in->qemu->pid, disk->top_fd);
    disk->frozen_fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (disk->frozen_fd < 0)
        return err_set_errno(err, errno, "bad-disk", "can't open the file of %s that QEMU has open", disk->node);
    /* Not everybody may (ptrace(2), Ptrace access mode checking): then just the lock stays as long as QEMU keeps the descriptor. */
    disk->written_fd = (int)syscall(SYS_pidfd_getfd, in->qemu->fd, disk->top_fd, 0);
    return 0;
}

static bool is_same(int fd, const char *path)
{
    struct stat a, b;

    if (fstat(fd, &a) < 0 || stat(path, &b) < 0)
        return false;
    if (S_ISBLK(a.st_mode))
        return S_ISBLK(b.st_mode) && a.st_rdev == b.st_rdev;
    return a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

/* How many layers of the record QEMU knows nothing of: overlays that a shim died with before the transaction. Nobody wrote to them. */
static int skip_unused(const struct frozen_disk *disk, const struct snapshot_layer *layers, size_t n, struct err *err)
{
    for (size_t i = 0; i < n; i++)
        if (is_same(disk->frozen_fd, layers[i].path))
            return (int)i;
    return err_set(
        err, ESTALE, "stale-disk",
        "%s: what QEMU has open for %s isn't there any more, it was replaced or removed while the VM ran; stop the VM and put the disk "
        "in order, then take the snapshot",
        layers[0].path, disk->node);
}

static int make_overlay(const struct freeze_input *in, size_t index, struct frozen_disk *disk, struct err *err)
{
    uint64_t number = 0;
    auto_fd int folder = layers_folder(in->state_fd, index, &number);

    if (folder < 0)
        return err_set_errno(err, -folder, "no-overlay", "can't use %s/" FOLDER_LAYERS, in->plan->state_dir);
    snprintf(disk->overlay, sizeof(disk->overlay), "%s-layer%" PRIu64, disk->node, number);
    snprintf(disk->file, sizeof(disk->file), "%s-%" PRIu64 ".qcow2", disk->node, number);
    disk->overlay_fd = overlay_create(folder, disk->file, &disk->layers[0], disk->size, err);
    if (disk->overlay_fd < 0) {
        disk->file[0] = '\0';
        return disk->overlay_fd;
    }
    if (fsync(disk->overlay_fd) < 0 || fsync(folder) < 0 || fsync(in->state_fd) < 0)
        return err_set_errno(err, errno, "no-overlay", "can't use %s/" FOLDER_LAYERS "/%s", in->plan->state_dir, disk->file);
    return 0;
}

/* The entry of the disk as it will be. */
static int record_overlay(const struct freeze_input *in, const struct chain *chain, const struct frozen_disk *disk, struct disks *record)
{
    struct snapshot_layer layers[1 + LAYERS_MAX] = { 0 };
    static char qcow2[] = "qcow2";
    auto_free char *path = NULL;

    if (str_format(&path, "%s/" FOLDER_LAYERS "/%s", in->plan->state_dir, disk->file) < 0)
        return -ENOMEM;
    layers[0] = (struct snapshot_layer){ .path = path, .format = qcow2 };
    memcpy(&layers[1], disk->layers, disk->n_layers * sizeof(layers[0]));
    return disks_set(record, chain->layers[0].path, layers, 1 + disk->n_layers);
}

static int freeze_disk(const struct freeze_input *in, const struct chain *chain, struct frozen_disk *disk, struct disks *record,
                       struct err *err)
{
    const struct disk_layers *entry = disks_find(in->disks, chain->layers[0].path);
    const struct snapshot_layer *layers = entry ? entry->layers : chain->layers;
    size_t n = entry ? entry->n_layers : chain->n_layers;
    int r;

    *disk = (struct frozen_disk){ .readonly = chain->readonly,
                                  .made = plan_disk_is_made(in->plan, chain->layers[0].path),
                                  .written_fd = -1,
                                  .frozen_fd = -1,
                                  .overlay_fd = -1 };
    snprintf(disk->node, sizeof(disk->node), "%s", chain->node);
    r = look_at_top(in, disk, err);
    if (r >= 0 && !disk->readonly)
        r = open_top(in, disk, err);
    if (r >= 0 && !disk->readonly && (r = skip_unused(disk, layers, n, err)) > 0) {
        layers += r;
        n -= (size_t)r;
    }
    if (r >= 0)
        r = layers_copy(layers, n, &disk->layers);
    if (r < 0)
        return r;
    disk->n_layers = n;
    if (disk->readonly)
        return 0;
    if (n + 1 > LAYERS_MAX)
        return err_set(
            err, EMLINK, "too-many-layers",
            "%s consists of %zu files, the most there can be; merge them (stop the VM, then qemu-img convert the disk's first file, "
            "%s, to one that the spec names) before the next snapshot",
            disk->node, n, layers[0].path);
    r = make_overlay(in, chain->index, disk, err);
    return r < 0 ? r : record_overlay(in, chain, disk, record);
}

/* A VM whose next start would be refused must not come to be. */
static int check_start(const struct freeze_input *in, const struct disks *record, struct err *err)
{
    auto_layered struct layered layered = { 0 };

    return layers_apply(in->plan, record, &layered, err);
}

int layers_freeze_prepare(const struct freeze_input *in, struct freeze *ret_freeze, struct err *err)
{
    auto_freeze struct freeze freeze = { 0 };
    struct chains chains;
    int r = chains_of_plan(in->plan, &chains, err);

    if (r >= 0)
        r = disks_copy(in->disks, &freeze.record);
    if (r >= 0)
        r = str_format(&freeze.folder, "%s/" FOLDER_LAYERS, in->plan->state_dir);
    if (r < 0)
        return r;
    freeze.disks = calloc(chains.n > 0 ? chains.n : 1, sizeof(*freeze.disks));
    if (!freeze.disks)
        return -ENOMEM;
    for (size_t i = 0; i < chains.n && r >= 0; i++, freeze.n_disks++)
        r = freeze_disk(in, &chains.items[i], &freeze.disks[i], &freeze.record, err);
    if (r >= 0)
        r = check_start(in, &freeze.record, err);
    if (r < 0) {
        (void)layers_freeze_undo(in->state_fd, &freeze);
        return r;
    }
    *ret_freeze = freeze;
    freeze = (struct freeze){ 0 };
    return 0;
}

int layers_freeze_undo(int state_fd, const struct freeze *freeze)
{
    auto_fd int folder = dir_open(state_fd, FOLDER_LAYERS);
    int r = 0;

    if (folder < 0)
        return folder == -ENOENT ? 0 : folder;
    for (size_t i = 0; i < freeze->n_disks; i++)
        if (freeze->disks[i].file[0] && unlinkat(folder, freeze->disks[i].file, 0) < 0 && errno != ENOENT && r == 0)
            r = -errno;
    return r;
}

void layers_presync(const struct freeze *freeze)
{
    for (size_t i = 0; i < freeze->n_disks; i++)
        if (freeze->disks[i].frozen_fd >= 0)
            (void)fdatasync(freeze->disks[i].frozen_fd);
}

int layers_unlock(const struct freeze *freeze)
{
    struct flock all = { .l_type = F_UNLCK, .l_whence = SEEK_SET };
    int r = 0;

    for (size_t i = 0; i < freeze->n_disks; i++)
        if (freeze->disks[i].written_fd >= 0 && fcntl(freeze->disks[i].written_fd, F_OFD_SETLK, &all) < 0 && r == 0)
            r = -errno;
    return r;
}

int layers_fdset(const json_t *returned, uint64_t *ret_set)
{
    const json_t *set = json_object_get(returned, "fdset-id");

    if (!json_is_integer(set) || json_integer_value(set) < 0)
        return -EINVAL;
    *ret_set = (uint64_t)json_integer_value(set);
    return 0;
}

json_t *layers_frozen_fd(const struct frozen_disk *disk)
{
    return json_pack("{sI ss}", "fdset-id", (json_int_t)disk->top_set, "opaque", FROZEN_MARK);
}

json_t *layers_written_fd(const struct frozen_disk *disk)
{
    return json_pack("{sI si}", "fdset-id", (json_int_t)disk->top_set, "fd", disk->top_fd);
}

/* Without a backing file for now: the transaction gives it one, the disk's top. */
json_t *layers_overlay_node(const struct frozen_disk *disk, uint64_t fdset)
{
    char filename[40];

    snprintf(filename, sizeof(filename), "/dev/fdset/%" PRIu64, fdset);
    return json_pack("{ss ss sb ss s{ss ss ss ss} sn}", "driver", "qcow2", "node-name", disk->overlay, "read-only", 0, "discard", "unmap",
                     "file", "driver", "file", "filename", filename, "locking", "auto", "discard", "unmap", "backing");
}

json_t *layers_transaction(const struct freeze *freeze)
{
    auto_json json_t *actions = json_array();

    for (size_t i = 0; i < freeze->n_disks; i++) {
        const struct frozen_disk *disk = &freeze->disks[i];

        if (!disk->readonly && json_array_append_new(actions, json_pack("{ss s{ss ss}}", "type", "blockdev-snapshot", "data", "node",
                                                                        disk->top, "overlay", disk->overlay)) < 0)
            return NULL;
    }
    return json_pack("{sO}", "actions", actions);
}
