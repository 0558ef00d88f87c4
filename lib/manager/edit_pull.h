/* The edited spec of a VM that runs names a release that isn't in the store: it is got while the VM runs on, and the edit looked at again then. */
#pragma once

#include "lib/manager/vm.h"

/* Waits for that release, NULL: the newest; in place of what was waited for before. */
void edit_pull_begin(struct vm *vm, const char *image, const char *version);
/* The edit means something else by now. The image service goes on. */
void edit_pull_drop(struct vm *vm);

/* A line for people, malloc'ed; NULL: it waits for nothing. */
char *edit_pull_reason(const struct vm *vm);
