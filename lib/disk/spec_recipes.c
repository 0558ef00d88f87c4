#include "lib/disk/spec_recipes.h"

#include <errno.h>

struct found {
    void (*report)(void *arg, const struct err *err);
    void *arg;
};

static int digest(const struct recipe *recipe, const char *place, const struct found *found, char ret[MADE_DIGEST_LEN + 1])
{
    struct err err = ERR_INIT;
    int r = recipe_check_tools(recipe->kind, &err);

    if (r >= 0)
        r = recipe_digest(recipe, ret, &err);
    if (r >= 0 || r == -ENOMEM)
        return r;
    (void)err_from(&err, r, "reading its files");
    err_prefix(&err, "%s", place);
    found->report(found->arg, &err);
    return 1;
}

int spec_recipes_digest(const struct spec *spec, void (*report)(void *arg, const struct err *err), void *arg, struct spec_digests *ret)
{
    const struct found found = { report, arg };
    struct spec_digests digests = { 0 };
    int n = 0, r = 0;

    if (spec->config_disk.wanted)
        r = digest(&(struct recipe){ .kind = RECIPE_CONFIG,
                                     .label = spec->config_disk.label,
                                     .directory = spec->config_disk.directory,
                                     .files = spec->config_disk.files,
                                     .n_files = spec->config_disk.n_files },
                   "/config_disk", &found, digests.config);
    if (r < 0)
        return r;
    n += r;
    r = 0;
    if (spec->seed.wanted)
        r = digest(&(struct recipe){ .kind = RECIPE_SEED,
                                     .label = SEED_LABEL,
                                     .vm = spec->name,
                                     .user_data = spec->seed.user_data,
                                     .meta_data = spec->seed.meta_data,
                                     .network_config = spec->seed.network_config },
                   "/seed", &found, digests.seed);
    if (r < 0)
        return r;
    *ret = digests;
    return n + r;
}
