/* Snapshots whose disks are files of a release: their guests can't go on without it. */
#include <dirent.h>
#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/images/use.h"
#include "proto/launch.h"
#include "proto/snapshot.h"

struct search {
    char *prefix; /* of the paths of the release's files */
    struct strv found;
    bool unclear;
};

static int read_record(int snapshot_fd, struct snapshot *ret_snapshot)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(snapshot_fd, FILE_SNAPSHOT, RECORD_MAX, &text, &len);

    if (r >= 0)
        r = json_parse(text, len, &json, NULL);
    return r < 0 ? r : snapshot_from_json(json, ret_snapshot, NULL);
}

static bool consists_of(const struct snapshot *s, const char *prefix)
{
    for (size_t d = 0; d < s->n_disks; d++)
        for (size_t k = 0; k < s->disks[d].n_layers; k++)
            if (has_prefix(s->disks[d].layers[k].path, prefix))
                return true;
    return false;
}

static int look_at(struct search *s, int vm_fd, const char *vm, const char *name)
{
    auto_snapshot struct snapshot snapshot = { 0 };
    auto_fd int fd = dir_open(vm_fd, name);
    int r;

    if (fd < 0)
        return 0;
    r = read_record(fd, &snapshot);
    if (r == -ENOMEM)
        return r;
    if (r < 0)
        s->unclear = true;
    if (r < 0 || consists_of(&snapshot, s->prefix))
        strv_pushf(&s->found, "%s/%s", vm, name);
    return s->found.failed ? -ENOMEM : 0;
}

/* Calls `each` with every folder whose name may be a VM's or a snapshot's. */
static int each_name(int parent, const char *folder, int (*each)(struct search *s, int dir_fd, const char *folder, const char *name),
                     struct search *s)
{
    int fd = dir_open(parent, folder), r = 0;
    const struct dirent *entry;
    DIR *dir;

    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? 0 : fd;
    dir = fdopendir(fd);
    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir)))
        if (name_is_valid(entry->d_name))
            r = each(s, dirfd(dir), folder, entry->d_name);
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

static int look_at_vm(struct search *s, int snapshots_fd, const char *folder, const char *name)
{
    return each_name(snapshots_fd, name, look_at, s);
}

int image_snapshots(int state_vms_fd, const struct image_store *store, const char *name, const char *version, struct strv *ret_snapshots,
                    bool *ret_unclear)
{
    struct search s = { 0 };
    auto_fd int state_fd = state_vms_fd < 0 ? -1 : dir_open(state_vms_fd, "..");
    int r = state_vms_fd < 0 ? 0 : str_format(&s.prefix, "%s/%s/%s/", store->path, name, version);

    if (r >= 0 && state_vms_fd >= 0)
        r = state_fd < 0 ? state_fd : each_name(state_fd, FOLDER_SNAPSHOTS, look_at_vm, &s);
    free(s.prefix);
    if (r < 0) {
        strv_clear(&s.found);
        return r;
    }
    *ret_snapshots = s.found;
    if (ret_unclear)
        *ret_unclear = s.unclear;
    return 0;
}
