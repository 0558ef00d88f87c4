/* What would change: shared by diff, and by apply with --dry-run. */
#pragma once

#include "cmd/vmctl/verb.h"

/* Everything in `in->args` that is a file, or, with `names_too`, the name of a VM. */
enum outcome diff_run(const struct invocation *in, bool names_too);
