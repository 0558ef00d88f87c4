/* The folder of one unfinished pull; internal to pull.c and partial.c. */
#pragma once

#include "lib/images/pull.h"

#define PARTIAL_PREFIX ".partial-"

int partial_read(int folder_fd, struct image_partial *ret_partial);
int partial_write(int folder_fd, const struct image_partial *partial);
/* Once it is finished. */
int partial_forget(int folder_fd);
int partial_folder_name(const char *version, char **ret_name);
/* Made when it isn't there, and locked. `name_fd`: STATE/images/NAME. The fd; -EBUSY: another pull has it. */
int partial_open(int name_fd, const char *version);
