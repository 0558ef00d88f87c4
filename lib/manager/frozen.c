#include "lib/manager/frozen.h"

#include <errno.h>
#include <sys/stat.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/state.h"
#include "lib/qemu/chains.h"
#include "proto/disks.h"

/* What is wrong with the record its shim finds out, and says. */
static void read_layers(const struct manager *m, const char *name, struct disks *ret_disks)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    char path[VM_PATH_MAX];
    size_t len;

    if (file_read(m->state_vms_fd, name_path(name, FILE_DISKS, path), RECORD_MAX, &text, &len) >= 0 &&
        json_parse(text, len, &json, NULL) >= 0)
        (void)disks_from_json(json, ret_disks, NULL);
}

static bool is_same(const struct stat *a, const char *path)
{
    struct stat b;

    if (stat(path, &b) < 0)
        return false;
    if (S_ISBLK(a->st_mode))
        return S_ISBLK(b.st_mode) && a->st_rdev == b.st_rdev;
    return a->st_dev == b.st_dev && a->st_ino == b.st_ino;
}

static bool consists_of(const struct snapshot *s, const struct stat *file)
{
    for (size_t d = 0; d < s->n_disks; d++)
        for (size_t k = 0; !s->disks[d].readonly && k < s->disks[d].n_layers; k++)
            if (is_same(file, s->disks[d].layers[k].path))
                return true;
    return false;
}

static int check_file(const struct snapshot_list *list, const char *path, struct err *err)
{
    struct stat st;

    if (stat(path, &st) < 0) /* it is to be made yet */
        return 0;
    for (size_t i = 0; i < list->n; i++)
        if (consists_of(&list->items[i].found, &st))
            return err_set(err, EBUSY, "frozen",
                           "%s is part of snapshot %s/%s, which would be destroyed by writing to it: restore that snapshot, delete it "
                           "(vmctl snapshot delete), or give the disk another file",
                           path, list->items[i].vm, list->items[i].name);
    return 0;
}

int frozen_check(const struct manager *m, const struct plan *plan, struct err *err)
{
    auto_snapshot_list struct snapshot_list list = { 0 };
    auto_disks struct disks disks = { 0 };
    struct chains chains;
    int r = chains_of_plan(plan, &chains, err);

    if (r >= 0)
        r = snapshots_list(m->snapshots_fd, NULL, &list);
    if (r < 0 || list.n == 0)
        return r;
    read_layers(m, plan->name, &disks);
    for (size_t i = 0; i < chains.n && r >= 0; i++)
        if (!chains.items[i].readonly && !disks_find(&disks, chains.items[i].layers[0].path))
            r = check_file(&list, chains.items[i].layers[0].path, err);
    return r;
}
