#include "lib/qemu/made_disks.h"

#include <errno.h>

#include "lib/base/strv.h"
#include "proto/made_image.h"

#define SEED_LABEL "cidata"

static int add(const struct resolve_input *in, struct made_disks *made, const char *label, const char *digest)
{
    static char raw[] = "raw";
    struct spec_disk *disk = &made->disks[made->spec.n_disks];

    if (!digest)
        return 0;
    *disk = (struct spec_disk){ .readonly = true, .persistent = true, .format = raw };
    if (str_format(&disk->path, "%s/%s-%s" MADE_IMAGE_SUFFIX, in->state_dir, label, digest) < 0)
        return -ENOMEM;
    made->names[made->n++] = label;
    made->spec.n_disks++;
    return 0;
}

int made_disks_init(const struct resolve_input *in, struct made_disks *ret, struct err *err)
{
    const struct spec *spec = in->spec;
    size_t made = (size_t)(in->config_digest != NULL) + (size_t)(in->seed_digest != NULL);
    int r;

    *ret = (struct made_disks){ .spec = *spec };
    if (spec->n_disks + made > DISKS_MAX)
        return err_set(err, EINVAL, "bad-spec", "more disks than have a place");
    if (spec->config_disk.wanted != (in->config_digest != NULL) || spec->seed.wanted != (in->seed_digest != NULL))
        return err_set(err, EINVAL, "bad-spec", "the files for a disk were not looked at");
    if (made > 0 && (!in->mkdisk_path || in->mkdisk_path[0] != '/'))
        return err_set(err, ENOENT, "no-mkdisk", "holdfast-mkdisk is needed to make a disk of files, and was not found");
    for (size_t i = 0; i < spec->n_disks; i++)
        ret->disks[i] = spec->disks[i];
    ret->spec.disks = ret->disks;
    r = add(in, ret, spec->config_disk.label, in->config_digest);
    return r < 0 ? r : add(in, ret, SEED_LABEL, in->seed_digest);
}

void made_disks_clear(struct made_disks *made)
{
    for (size_t i = 0; i < made->n; i++)
        free(made->disks[made->spec.n_disks - made->n + i].path);
}

static void push_option(struct strv *argv, const char *option, const char *value)
{
    if (!value)
        return;
    strv_push(argv, option);
    strv_push(argv, value);
}

static void push_config(struct strv *argv, const struct spec *spec)
{
    strv_push(argv, "config");
    push_option(argv, "--label", spec->config_disk.label);
    push_option(argv, "--directory", spec->config_disk.directory);
    for (size_t i = 0; i < spec->config_disk.n_files; i++) {
        strv_push(argv, "--file");
        strv_push(argv, spec->config_disk.files[i].key);
        strv_push(argv, "--from");
        strv_push(argv, spec->config_disk.files[i].value);
    }
}

static void push_seed(struct strv *argv, const struct spec *spec)
{
    strv_push(argv, "seed");
    push_option(argv, "--vm", spec->name);
    push_option(argv, "--user-data", spec->seed.user_data);
    push_option(argv, "--meta-data", spec->seed.meta_data);
    push_option(argv, "--network-config", spec->seed.network_config);
}

static int push(const struct resolve_input *in, const struct made_disks *made, size_t i, struct plan *plan)
{
    const char *path = made->disks[made->spec.n_disks - made->n + i].path;
    struct plan_step *step = &plan->prepare[plan->n_prepare++];
    struct plan_disk *disk = &plan->disks[plan->n_disks++];
    bool config = i == 0 && in->config_digest;
    auto_strv struct strv argv = { 0 };

    strv_push(&argv, in->mkdisk_path);
    if (config)
        push_config(&argv, in->spec);
    else
        push_seed(&argv, in->spec);
    strv_push(&argv, "--");
    strv_push(&argv, config ? in->config_digest : in->seed_digest);
    strv_push(&argv, path);
    if (argv.failed || str_format(&step->what, "make disk %s", made->names[i]) < 0 || str_set(&step->creates, path) < 0 ||
        str_set(&disk->name, made->names[i]) < 0 || str_set(&disk->path, path) < 0 || str_set(&disk->format, "raw") < 0)
        return -ENOMEM;
    step->argv = argv.items;
    argv = (struct strv){ 0 };
    return 0;
}

int made_disks_push(const struct resolve_input *in, const struct made_disks *made, struct plan *plan)
{
    int r = 0;

    for (size_t i = 0; i < made->n && r >= 0; i++)
        r = push(in, made, i, plan);
    return r;
}
