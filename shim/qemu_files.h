/* The plan's files, opened in QEMU's child before it gives up root: async-signal-safe, no memory allocated. In the child, so that a disk on
 * a dead file server delays nobody else. */
#pragma once

#include "proto/plan.h"

/* Opens file `file` as its number. 0 or -errno. */
int qemu_file_open(const struct plan_file *file);

/* For FILE_REOPENED, as the user QEMU is: makes a copy in memory take the file's place when that user may not open it. */
int qemu_file_make_reopenable(const struct plan_file *file);
