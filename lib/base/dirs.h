/* The four folders of DESIGN §5: option, else environment (HOLDFAST_RUN_DIR, …STATE_DIR, …LOG_DIR, …CONFIG_DIR), else root's or the
 * user's default (XDG Base Directory Specification). All absolute. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/util.h"

struct dirs {
    char *run, *state, *log, *config;
};

/* Fields already set (from options; made absolute) are kept, the others resolved. Makes nothing. */
int dirs_resolve(struct dirs *d, struct err *err);
void dirs_clear(struct dirs *d);
#define auto_dirs auto_cleanup(dirs_clear)
