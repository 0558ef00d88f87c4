/* CONFIG/holdfast.json, or where there is none CONFIG/config.json of the sp-vm watchdog: what is the same for all VMs of the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/record.h"
#include "lib/base/util.h"
#include "lib/images/config.h"
#include "lib/manager/host_limits.h"
#include "lib/spec/spec.h"
#include "proto/states.h"

/* Where neither command nor config says. */
#define RESTORE_MODE_DEFAULT RESTORE_LAZY

/* What follows when the spec of a VM that runs was edited so that it must be restarted. */
enum on_change { ON_CHANGE_RESTART, ON_CHANGE_SHOW };
extern const struct enum_names on_change_names;

struct host_config {
    struct host_config *older; /* replaced by this one and kept, since threads may be reading in it */
    bool found;                /* there was a file */
    char *group;               /* whose members may manage; NULL: "holdfast" where there is such a group */
    char *log_level;           /* error warning info debug; NULL: info */
    char *qemu_user;           /* whom QEMU runs as where the spec doesn't say; NULL: "holdfast-qemu" or nobody's number */
    uint64_t start_interval;   /* milliseconds between starts of the manager's own accord, 0: all at once */
    struct port_range ports;   /* that are given to forwards whose port is "auto" */
    struct host_limits limits;
    struct {
        int mode;      /* enum restore_mode: of a restore that isn't asked for in one */
        bool prefetch; /* memory that is known to be needed first is loaded first, and what isn't known is learned */
    } restore;
    struct {
        uint64_t delete_grace;     /* milliseconds from the loss of a VM's spec to its stop */
        int on_change;             /* enum on_change */
        uint64_t restart_interval; /* milliseconds between the end of one restart for an edited spec and the next */
    } watch;
    struct {
        int policy;      /* enum image_update: of VMs whose spec doesn't say */
        uint64_t minute; /* of the day, local time, when releases that are newer are picked up */
    } image_update;
    struct {
        char *configs_dir;          /* absolute: the folder of specs, NULL: CONFIG/vms */
        char *authorized_keys_file; /* absolute: put on the config disk of VMs with "debug" */
    } vm_config;                    /* of the sp-vm watchdog */
    struct images_config images;    /* of holdfast-imaged, which reads it by itself */
};
extern const struct record_type host_config_type;

/* An editor that saves a file may take it away for a moment. */
enum { DELETE_GRACE_MIN_MS = 1000 };

/* Where a config with vm_config doesn't say. */
#define SPVM_CONFIGS_DIR "/etc/sp/watchdog/vms"

/* The names it may have, the first that is there counts; NULL-ended. */
extern const char *const host_config_files[];

/* A missing file is fine and gives the defaults. Blocks. -EINVAL naming file and key. */
int host_config_read(const char *config_dir, struct host_config *ret_config, struct err *err);
void host_config_clear(struct host_config *c);
