/* A release of the image store in a spec. */
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"

static const char newest[] = "auto";

/* The image brings all that is booted; a command line of one's own is added to it. */
static void check_boot(const struct spec *spec, struct problems *p)
{
    const struct {
        const char *key, *path;
    } brought[] = { { "kernel", spec->boot.kernel }, { "initrd", spec->boot.initrd }, { "firmware", spec->boot.firmware } };

    for (size_t i = 0; i < ARRAY_LEN(brought); i++)
        if (brought[i].path)
            problem_add(p, "/boot/%s: not together with \"image\", which brings its own", brought[i].key);
}

void spec_check_image(struct spec *spec, struct problems *p)
{
    if (!spec->image.name)
        return;
    if (spec->image.version && streq(spec->image.version, newest)) {
        free(spec->image.version);
        spec->image.version = NULL;
    }
    if (!name_is_valid(spec->image.name))
        problem_add(p, "/image/name: '%s' is not a valid name: %s", spec->image.name, NAME_RULE);
    if (spec->image.version && !version_is_valid(spec->image.version))
        problem_add(p, "/image/version: '%s' is neither \"%s\" nor a valid version: %s", spec->image.version, newest, VERSION_RULE);
    if (spec->image.version && spec->image.update == IMAGE_UPDATE_AUTO)
        problem_add(p, "/image/update: \"auto\" needs the version \"%s\": a fixed one is never updated", newest);
    check_boot(spec, p);
}
