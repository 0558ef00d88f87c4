#include "shim/layers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/qemu/chains.h"
#include "proto/launch.h"

int layers_load(int state_fd, const struct plan *plan, struct disks *ret_disks, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    struct err why = ERR_INIT;
    size_t len;
    int r = file_read(state_fd, FILE_DISKS, RECORD_MAX, &text, &len);

    if (r == -ENOENT) {
        *ret_disks = (struct disks){ .schema = DISKS_SCHEMA };
        return 0;
    }
    if (r >= 0)
        r = json_parse(text, len, &json, &why);
    if (r >= 0)
        r = disks_from_json(json, ret_disks, &why);
    if (r >= 0)
        return 0;
    return err_set(err, -r, "bad-disks",
                   "%s/" FILE_DISKS
                   ": %s; it says which files hold the newest data of the disks, so nothing is started without it: mend it, or, "
                   "to go on with the disks as they were before the first snapshot, move it away",
                   plan->state_dir, err_is_set(&why) ? why.text : strerror(-r));
}

int layers_store(int state_fd, const struct disks *disks, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    struct disks back;
    size_t len;
    int r = record_emit(&disks_type, disks, &json);

    /* Read back first: a record that can't be read would keep the VM from starting ever again. */
    if (r >= 0)
        r = disks_from_json(json, &back, err);
    if (r < 0)
        return err_from(err, r, "can't make " FILE_DISKS);
    disks_clear(&back);
    r = json_format_indented(json, &text, &len);
    if (r >= 0)
        r = file_write(state_fd, FILE_DISKS, text, len, 0640, FILE_DURABLE);
    return r < 0 ? err_set_errno(err, -r, "no-record", "can't write " FILE_DISKS) : 0;
}

static bool in_use(const struct chains *chains, const char *plan_path)
{
    for (size_t i = 0; i < chains->n; i++)
        if (streq(chains->items[i].layers[0].path, plan_path))
            return true;
    return false;
}

char *layers_unused(const struct plan *plan, const struct disks *disks)
{
    struct chains chains;
    char *text = NULL;

    if (chains_of_plan(plan, &chains, NULL) < 0)
        return NULL;
    for (size_t i = 0; i < disks->n_disks; i++) {
        auto_free char *before = text;
        const struct disk_layers *disk = &disks->disks[i];

        if (in_use(&chains, disk->plan_path)) {
            before = NULL;
            continue;
        }
        text = NULL;
        if (str_format(&text, "%s%s%s (its newest data is in %s)",
                       before ? before : FILE_DISKS " has layers of files that no disk is made of: ", before ? ", " : "", disk->plan_path,
                       disk->layers[0].path) < 0)
            return NULL;
    }
    return text;
}

/* "disk3-12.qcow2" -> 3, 12. */
static bool is_layer_name(const char *name, uint64_t *ret_index, uint64_t *ret_number)
{
    unsigned index;
    char index_text[8] = "", number_text[24] = "";
    const char *dash = strchr(name, '-'), *dot = strchr(name, '.');
    size_t prefix = strlen("disk");

    if (!has_prefix(name, "disk") || !dash || !dot || dot < dash || (!streq(dot, ".qcow2") && !streq(dot, ".raw")))
        return false;
    index = (unsigned)(dash - name - (ptrdiff_t)prefix);
    if (index >= sizeof(index_text) || (size_t)(dot - dash - 1) >= sizeof(number_text))
        return false;
    memcpy(index_text, name + prefix, index);
    memcpy(number_text, dash + 1, (size_t)(dot - dash - 1));
    return parse_u64(index_text, 0, DISKS_MAX - 1, ret_index) >= 0 &&
           parse_u64(number_text, 1, INT64_MAX - LAYERS_MAX - 1, ret_number) >= 0;
}

/* Calls `each` with every name in the folder that is one of ours. */
static int each_layer(int folder_fd, int (*each)(void *arg, int folder_fd, const char *name), void *arg)
{
    int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    uint64_t index, number;

    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir)))
        if (is_layer_name(entry->d_name, &index, &number))
            r = each(arg, folder_fd, entry->d_name);
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

struct numbering {
    uint64_t index, highest;
};

static int note_number(void *arg, int folder_fd, const char *name)
{
    struct numbering *n = arg;
    uint64_t index, number;

    if (is_layer_name(name, &index, &number) && index == n->index && number > n->highest)
        n->highest = number;
    return 0;
}

int layers_folder(int state_fd, size_t index, uint64_t *ret_number)
{
    struct numbering numbering = { .index = index };
    auto_fd int fd = -1;
    int r;

    if (mkdirat(state_fd, FOLDER_LAYERS, 0750) < 0 && errno != EEXIST)
        return -errno;
    fd = dir_open(state_fd, FOLDER_LAYERS);
    r = fd < 0 ? fd : each_layer(fd, note_number, &numbering);
    if (r < 0)
        return r;
    *ret_number = numbering.highest + 1;
    return steal_fd(&fd);
}

/* By the last part of the name: a state folder that was moved holds the same files. */
static bool is_named(const struct disks *disks, const char *name)
{
    for (size_t i = 0; i < disks->n_disks; i++)
        for (size_t k = 0; k < disks->disks[i].n_layers; k++)
            if (streq(strrchr(disks->disks[i].layers[k].path, '/') + 1, name))
                return true;
    return false;
}

static int sweep_one(void *arg, int folder_fd, const char *name)
{
    struct stat st;

    if (is_named(arg, name) || fstatat(folder_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode) || (st.st_mode & 0222) == 0)
        return 0;
    return unlinkat(folder_fd, name, 0) < 0 && errno != ENOENT ? -errno : 0;
}

int layers_sweep(int state_fd, const struct disks *disks)
{
    auto_fd int fd = dir_open(state_fd, FOLDER_LAYERS);
    union {
        const struct disks *given;
        void *arg;
    } named = { disks };

    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    return each_layer(fd, sweep_one, named.arg);
}
