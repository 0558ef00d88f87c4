#include "lib/manager/plan_image.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/host/host.h"
#include "lib/images/use.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/state.h"

enum { HASH_FILE_MAX = 4096, HASH_DIGITS_MAX = 128 /* of SHA-512 */ };

#define ROLE_ROOTFS "image"
#define ROLE_ROOTFS_HASH "rootfs_hash"
#define ROLE_KERNEL "kernel"
#define ROLE_INITRD "initrd"
#define ROLE_FIRMWARE "bios"
#define ROLE_FIRMWARE_SNP "bios_amd"

/* ---- which ---- */

/* "…/images/NAME/VERSION/FILE" → VERSION. NULL: the path is no file of that image. */
static char *version_in(const struct manager *m, const char *image, const char *path)
{
    auto_free char *folder = NULL;
    const char *version, *slash;

    if (str_format(&folder, "%s/" FOLDER_IMAGES "/%s/", m->dirs.state, image) < 0 || !has_prefix(path, folder))
        return NULL;
    version = path + strlen(folder);
    slash = strchr(version, '/');
    return slash ? strndup(version, (size_t)(slash - version)) : NULL;
}

/* A restored guest has the disks of its snapshot, so neither the newest release nor the one its spec names by now would do. */
static int version_of_snapshot(const struct plan_request *p, const struct spec *spec, char **ret_version)
{
    auto_snapshot_info struct snapshot_info info = { 0 };
    const struct manager *m = p->vm->manager;

    /* What is wrong with it plan_restore() says. */
    if (snapshots_read(m->snapshots_fd, p->restore.vm, p->restore.snapshot, &info) < 0 || info.damaged)
        return 0;
    for (size_t i = 0; i < info.found.n_disks && !*ret_version; i++)
        for (size_t k = 0; k < info.found.disks[i].n_layers && !*ret_version; k++)
            *ret_version = version_in(m, spec->image.name, info.found.disks[i].layers[k].path);
    return 0;
}

/* ---- what it brings ---- */

/* It goes on the kernel's command line, so it must be nothing but a hash. */
static bool is_hash(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isxdigit((unsigned char)text[i]))
            return false;
    return len > 0 && len <= HASH_DIGITS_MAX && strlen(text) == len;
}

static int read_hash(const struct image_release *release, char **ret_hash, struct err *err)
{
    auto_free char *path = image_release_file_path(release, ROLE_ROOTFS_HASH), *text = NULL;
    auto_fd int fd = -1;
    size_t len = 0;
    int r;

    if (!image_release_file(release, ROLE_ROOTFS_HASH))
        return 0;
    if (!path)
        return -ENOMEM;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NOCTTY);
    r = fd < 0 ? -errno : fd_read_all(fd, HASH_FILE_MAX, &text, &len);
    if (r < 0)
        return err_set_errno(err, -r, "bad-image", "can't read %s", path);
    while (len && isspace((unsigned char)text[len - 1]))
        text[--len] = '\0';
    if (!is_hash(text, len))
        return err_set(err, EINVAL, "bad-image", "%s isn't one hash in hexadecimal digits", path);
    *ret_hash = steal_ptr(&text);
    return 0;
}

/* Absolute path of the file in that role; NULL: there is none. */
static int path_of(const struct image_release *release, const char *role, char **ret_path)
{
    if (!image_release_file(release, role))
        return 0;
    *ret_path = image_release_file_path(release, role);
    return *ret_path ? 0 : -ENOMEM;
}

/* What the resolver takes "auto" for. */
static int is_snp(const struct plan_request *p, const struct spec *spec)
{
    struct host host = { 0 };
    int r = spec->confidential == CONFIDENTIAL_AUTO ? host_read(p->vm->manager->sysfs_root, host_cpuid_native, &host) : 0;

    return r < 0 ? r : spec->confidential == CONFIDENTIAL_SEV_SNP || (host.sev_snp && !host.tdx);
}

static int apply(const struct plan_request *p, const struct image_release *release, struct spec *spec, struct err *err)
{
    auto_free char *kernel = NULL, *initrd = NULL, *firmware = NULL, *rootfs = NULL, *hash = NULL;
    int r = is_snp(p, spec);

    if (r > 0)
        r = path_of(release, ROLE_FIRMWARE_SNP, &firmware);
    if (r >= 0 && !firmware)
        r = path_of(release, ROLE_FIRMWARE, &firmware);
    if (r >= 0)
        r = path_of(release, ROLE_KERNEL, &kernel);
    if (r >= 0)
        r = path_of(release, ROLE_INITRD, &initrd);
    if (r >= 0)
        r = path_of(release, ROLE_ROOTFS, &rootfs);
    if (r >= 0)
        r = read_hash(release, &hash, err);
    if (r < 0)
        return r;
    if (!kernel && !firmware && !rootfs)
        return err_set(err, EINVAL, "bad-image", "image %s %s has nothing to boot: no kernel, no bios, no image", release->name,
                       release->version);
    if (!firmware && spec->confidential != CONFIDENTIAL_NONE && spec->confidential != CONFIDENTIAL_AUTO)
        return err_set(err, EINVAL, "bad-image", "image %s %s has no firmware (%s), and a guest with confidential \"%s\" needs it",
                       release->name, release->version, ROLE_FIRMWARE, enum_to_string(&confidential_mode_names, spec->confidential));
    const struct spec_release files = {
        .version = release->version,
        .kernel = kernel,
        .initrd = initrd,
        .firmware = firmware,
        .rootfs = rootfs,
        .rootfs_hash = hash,
    };
    return spec_apply_release(spec, &files);
}

/* Whether the VM was started with another one. Not known is no. */
static bool is_newer(const struct plan_request *p, const struct image_release *release)
{
    auto_image_use struct image_use use = { 0 };

    return image_use_read(p->vm->manager->state_vms_fd, p->vm->name, &use, NULL) >= 0 && streq_opt(use.name, release->name) &&
           !streq_opt(use.version, release->version);
}

int plan_image_apply(struct plan_request *p, struct spec *spec, char **ret_folder)
{
    auto_image_store struct image_store store = IMAGE_STORE_NONE;
    auto_image_release struct image_release release = { 0 };
    auto_free char *version = NULL;
    int r;

    if (!spec->image.name)
        return 0;
    p->image_update = spec->image.update;
    p->image_newest = !spec->image.version;
    r = p->restore.vm ? version_of_snapshot(p, spec, &version) : 0;
    if (r >= 0 && !version)
        r = str_set(&version, spec->image.version);
    if (r < 0 || str_set(&p->image_name, spec->image.name) < 0 || str_set(&p->image_version, version) < 0)
        return -ENOMEM;
    r = image_store_open(p->vm->manager->dirs.state, &store, &p->err);
    if (r >= 0)
        r = image_release_find(&store, spec->image.name, version ? version : IMAGE_AUTO, &release, &p->err);
    if (r >= 0) {
        fd_close(p->release_fd);
        p->release_fd = -1;
        r = image_release_lock(&store, release.name, release.version, &p->release_fd, &p->err);
    }
    if (r >= 0)
        p->image_newer = p->image_newest && is_newer(p, &release);
    if (r >= 0)
        r = str_set(&p->image_version, release.version);
    if (r >= 0)
        r = apply(p, &release, spec, &p->err);
    return r < 0 ? r : str_set(ret_folder, release.path);
}

void plan_image_note(const struct plan_request *p)
{
    struct vm *vm = p->vm;

    (void)str_set(&vm->image, p->image_newest ? p->image_name : NULL);
    vm->image_update = (uint8_t)p->image_update;
}

int plan_image_use(struct plan_request *p, const struct spec *spec)
{
    const struct vm *vm = p->vm;
    int r;

    if (p->place.run) /* seen by nobody, and gone in a moment */
        return 0;
    r = spec->image.name ? image_use_write(vm->manager->state_vms_fd, vm->name, p->image_name, p->image_version)
                         : image_use_remove(vm->manager->state_vms_fd, vm->name);
    return r < 0 ? err_set_errno(&p->err, -r, "not-saved", "can't write down which image it is started with") : 0;
}
