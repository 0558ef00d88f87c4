/* The disks made of files that a spec asks for. */
#pragma once

#include "lib/disk/recipe.h"
#include "lib/spec/spec.h"

struct spec_digests {
    char config[MADE_DIGEST_LEN + 1], seed[MADE_DIGEST_LEN + 1]; /* "": the spec has none */
};

/* Reads all the files; what is wrong with them or lacks to make the disks is reported, with its place ("/config_disk: …"). The number of
 * problems, or -ENOMEM. Blocks. */
int spec_recipes_digest(const struct spec *spec, void (*report)(void *arg, const struct err *err), void *arg, struct spec_digests *ret);
