#include "lib/disk/own_disks.h"

#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/disk/image.h"
#include "proto/launch.h"

struct snapshot_layer own_disk_top(const struct disks *record, const char *path, const char *format)
{
    const struct disk_layers *entry = disks_find(record, path);

    if (entry)
        return entry->layers[0];
    return (struct snapshot_layer){ .path = (char *)(uintptr_t)path, .format = (char *)(uintptr_t)format };
}

int own_disk_check_size(const char *name, uint64_t now, uint64_t wanted, struct err *err)
{
    char now_text[SIZE_TEXT_MAX], wanted_text[SIZE_TEXT_MAX];

    if (now <= wanted)
        return 0;
    return err_set(
        err, EINVAL, "smaller",
        "disk %s has %s, more than the %s of the spec, and a disk is never shrunk, since what lies at its end would be lost: set its "
        "size back, or give it another name to begin with an empty one",
        name, format_size(now, now_text), format_size(wanted, wanted_text));
}

/* What is wrong with the record its shim says. */
static int read_record(const char *state_dir, struct disks *ret_disks)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL, *path = NULL;
    size_t len;

    if (str_format(&path, "%s/" FILE_DISKS, state_dir) < 0)
        return -ENOMEM;
    if (file_read(AT_FDCWD, path, RECORD_MAX, &text, &len) >= 0 && json_parse(text, len, &json, NULL) >= 0)
        (void)disks_from_json(json, ret_disks, NULL);
    return 0;
}

static int check_one(const struct spec_disk *disk, size_t i, const char *state_dir, const struct disks *record, struct err *err)
{
    auto_free char *path = NULL;
    struct snapshot_layer top;
    auto_fd int fd = -1;
    uint64_t size;

    if (str_format(&path, "%s/%s.%s", state_dir, disk->name, spec_disk_format(disk)) < 0)
        return -ENOMEM;
    top = own_disk_top(record, path, spec_disk_format(disk));
    fd = open(top.path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0 || image_size(fd, top.format, &size) < 0 || own_disk_check_size(disk->name, size, disk->size, err) >= 0)
        return 0;
    err_prefix(err, "/disks/%zu/size", i);
    return 1;
}

int own_disks_check(const struct spec *spec, const char *state_dir, void (*report)(void *arg, const struct err *err), void *arg)
{
    auto_disks struct disks record = { 0 };
    int n = 0, r = read_record(state_dir, &record);

    for (size_t i = 0; i < spec->n_disks && r >= 0; i++) {
        struct err err = ERR_INIT;

        if (!spec->disks[i].name || !spec->disks[i].persistent)
            continue;
        r = check_one(&spec->disks[i], i, state_dir, &record, &err);
        if (r > 0) {
            n++;
            report(arg, &err);
        }
    }
    return r < 0 ? r : n;
}
