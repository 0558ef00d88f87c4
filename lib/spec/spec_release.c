#include <errno.h>

#include "lib/base/util.h"
#include "lib/spec/spec.h"

/* Before all others. */
static int add_rootfs(struct spec *spec, const char *path)
{
    struct spec_disk *disks = calloc(spec->n_disks + 1, sizeof(*disks));

    if (!disks)
        return -ENOMEM;
    if (spec->n_disks > 0)
        memcpy(disks + 1, spec->disks, spec->n_disks * sizeof(*disks));
    free(spec->disks);
    spec->disks = disks;
    spec->n_disks++;
    disks->readonly = true;
    int r = str_set(&disks->path, path);
    return r < 0 ? r : str_set(&disks->format, "raw");
}

/* Every SPEC_IMAGE_VERSION becomes the version. */
static int fill_in(char **cmdline, const char *version)
{
    for (;;) {
        auto_free char *before = *cmdline;
        char *at = before ? strstr(before, SPEC_IMAGE_VERSION) : NULL;

        if (!at) {
            steal_ptr(&before);
            return 0;
        }
        *cmdline = NULL;
        if (str_format(cmdline, "%.*s%s%s", (int)(at - before), before, version, at + strlen(SPEC_IMAGE_VERSION)) < 0)
            return -ENOMEM;
    }
}

static int put_hash(char **cmdline, const char *rootfs_hash)
{
    auto_free char *own = steal_ptr(cmdline);

    return str_format(cmdline, SPEC_VERITY_CMDLINE "%s%s%s", rootfs_hash, own ? " " : "", own ? own : "");
}

int spec_apply_release(struct spec *spec, const struct spec_release *release)
{
    int r = str_set(&spec->boot.kernel, release->kernel);

    if (r >= 0)
        r = str_set(&spec->boot.initrd, release->initrd);
    if (r >= 0)
        r = str_set(&spec->boot.firmware, release->firmware);
    if (r >= 0)
        r = fill_in(&spec->boot.cmdline, release->version);
    if (r >= 0 && release->rootfs_hash)
        r = put_hash(&spec->boot.cmdline, release->rootfs_hash);
    if (r >= 0 && release->rootfs)
        r = add_rootfs(spec, release->rootfs);
    return r;
}
