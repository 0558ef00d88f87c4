/* What the files of lib/spec share with each other and with nobody else. */
#pragma once

#include "lib/spec/problems.h"
#include "lib/spec/spec.h"

extern const struct record_type spec_type;

/* Everything the tables can't say. Also writes what follows from other fields: a probe's host and path, a MAC in lower case.
 * 0 or -ENOMEM; mistakes go to `p`. */
int spec_check(struct spec *spec, struct problems *p);
int spec_check_network(struct spec *spec, struct problems *p);
void spec_check_disks(const struct spec *spec, struct problems *p);
int spec_check_content(struct spec *spec, struct problems *p); /* also writes the config disk's label */

/* Place of a file of the config disk: "/config_disk/files/etc~1app.yaml". malloc'ed. */
int spec_file_pointer(const char *path, char **ret_pointer);

/* Makes every address one with its domain and in lower case; complains of what is none, and of one that comes twice. `pointer` is the
 * place of the array. */
int spec_check_gpus(struct problems *p, const char *pointer, char **gpus);

/* Nothing when there is no image. A version "auto" becomes NULL. */
void spec_check_image(struct spec *spec, struct problems *p);

/* Complains about a path that isn't absolute, or longer than the kernel takes. NULL is fine. `pointer` is its place. */
void spec_check_path(struct problems *p, const char *pointer, const char *path);
