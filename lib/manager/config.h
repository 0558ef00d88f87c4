/* CONFIG/holdfast.json, or where there is none CONFIG/config.json of the sp-vm watchdog: what is the same for all VMs of the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/util.h"
#include "lib/manager/host_limits.h"
#include "proto/states.h"

/* Where neither command nor config says. */
#define RESTORE_MODE_DEFAULT RESTORE_LAZY

struct host_config {
    char *group;             /* whose members may manage; NULL: "holdfast" where there is such a group */
    char *log_level;         /* error warning info debug; NULL: info */
    char *qemu_user;         /* whom QEMU runs as where the spec doesn't say; NULL: "holdfast-qemu" or nobody's number */
    uint64_t start_interval; /* milliseconds between starts of the manager's own accord, 0: all at once */
    struct port_range ports; /* that are given to forwards whose port is "auto" */
    struct host_limits limits;
    struct {
        int mode;      /* enum restore_mode: of a restore that isn't asked for in one */
        bool prefetch; /* memory that is known to be needed first is loaded first, and what isn't known is learned */
    } restore;
    struct {
        char *configs_dir;          /* absolute: the folder of specs, NULL: CONFIG/vms */
        char *authorized_keys_file; /* not used by this version */
    } vm_config;                    /* of the sp-vm watchdog */
};
extern const struct record_type host_config_type;

/* Where a config with vm_config doesn't say. */
#define SPVM_CONFIGS_DIR "/etc/sp/watchdog/vms"

/* A missing file is fine and gives the defaults. -EINVAL naming file and key. */
int host_config_read(const char *config_dir, struct host_config *ret_config, struct err *err);
void host_config_clear(struct host_config *c);
