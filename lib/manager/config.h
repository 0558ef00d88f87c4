/* CONFIG/holdfast.json: what is the same for all VMs of the host. */
#pragma once

#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/util.h"

struct host_config {
    char *group;             /* whose members may manage; NULL: "holdfast" where there is such a group */
    char *log_level;         /* error warning info debug; NULL: info */
    char *qemu_user;         /* whom QEMU runs as where the spec doesn't say; NULL: "holdfast-qemu" or nobody's number */
    uint64_t start_interval; /* milliseconds between starts of the manager's own accord, 0: all at once */
};
extern const struct record_type host_config_type;

/* A missing file is fine and leaves the defaults. -EINVAL naming file and key. */
int host_config_read(const char *config_dir, struct host_config *ret_config, struct err *err);
void host_config_clear(struct host_config *c);
