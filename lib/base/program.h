/* The other programs of this installation: beside the running one, as in a build folder, or in the libexec folder of its prefix. */
#pragma once

#include "lib/base/err.h"

/* Absolute path, malloc'ed. -ENOENT with the folder that was looked in, -ENOMEM. */
int program_find(const char *name, char **ret_path, struct err *err);
