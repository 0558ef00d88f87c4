/* The launch plan: everything a shim needs to run one VM, resolved by the manager, with no reference back to the spec.
 *
 * On disk as RUN/vms/NAME/plan.json. QEMU's argv is literal. It may name these inherited descriptors, whose numbers are part of
 * the contract between the plan and whoever executes it: */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "proto/limits.h"
#include "proto/states.h"

enum plan_fd {
    PLAN_FD_QMP = 3,     /* listening socket of the monitor, bound by the shim: qmp.sock */
    PLAN_FD_CONSOLE = 4, /* listening socket of the first serial port: console.sock */
    PLAN_FD_RAM = 5,     /* memfd that is the guest's RAM, when ram.shared */
    PLAN_FD_AGENT = 7,   /* listening socket of the guest agent's channel, when qemu.agent: agent.sock */
    PLAN_FD_LOCK = 6,    /* vm.lock, held for as long as QEMU lives */
    /* The preload library's, when ram.shared (shim/agent/agent.h). */
    PLAN_FD_RAM_SOCKET = 8,
    PLAN_FD_UFFD = 9,
    PLAN_FD_PRELOAD = 15,
    /* What qemu.files names. By kind and index like the PCI slots, so that adding one moves no other. */
    PLAN_FD_CONSOLE_LOG = 10,
    PLAN_FD_KERNEL = 11,
    PLAN_FD_INITRD = 12,
    PLAN_FD_FIRMWARE = 13,
    PLAN_FD_VSOCK = 14,
    PLAN_FD_NETWORK = 16, /* to 23 */
    PLAN_FD_SEV = 24,     /* /dev/sev */
    PLAN_FD_RELEASE = 25, /* folder of the image's release, locked against being deleted for as long as QEMU lives */
    /* Not for QEMU to use, but to be found in it by a shim that takes a dead one's place. */
    PLAN_FD_PAGES = 30,   /* which pages of a snapshot are in (shim/memory/pager.h) */
    PLAN_FD_IMAGE = 31,   /* the snapshot's memory.raw, locked against being deleted */
    PLAN_FD_DISK = 32,    /* to 95 */
    PLAN_FD_BACKING = 96, /* backing files of all disks, in their order */
    PLAN_FD_IOMMU = 480,  /* to 495: /dev/iommu, once for each passed-through device */
    PLAN_FD_VFIO = 496,   /* to 511: the devices themselves */
    PLAN_FD_END = 512,
    PLAN_FD_LAYER = PLAN_FD_END, /* layers of snapshotted disks, which the shim puts into the argv: shim/layers.h */
    PLAN_FD_LAYER_END = 1000,    /* below the usual soft limit of descriptors, since the child opens them under it */
};

enum { PLAN_GROUPS_MAX = 64 };

enum { PLAN_SCHEMA = 1 };

/* QEMU's user can open next to nothing, so what it works with is opened as root between fork and exec and inherited: just its own files. */
struct plan_file {
    uint64_t fd;
    int kind;   /* enum file_kind */
    char *path; /* of FILE_TAP: the device's name; of FILE_VFIO: its folder in sysfs */
};

struct plan_step {
    char *what;    /* "create disk data (20G)", for progress and errors */
    char **argv;   /* absolute program first */
    char *creates; /* skipped when this path exists; it is removed when the step fails; NULL: always run */
    char *writes;  /* what argv really makes, renamed to `creates` when it is whole; NULL: `creates` itself */
};

/* A disk of the VM's own, made by one of the steps. The shim looks at each before a boot, and at none before a restore. */
struct plan_disk {
    char *name;    /* for messages */
    char *path;    /* as in the steps and in qemu.files */
    char *format;  /* "raw" or "qcow2" */
    uint64_t size; /* a smaller disk is grown to it, a larger one refused; 0: made of files, never written to, and named by what is in it */
    bool fresh;    /* made anew at each start of QEMU */
    char *qemu_img; /* the program that grows it; NULL with size 0 */
};

struct plan_rung {
    int kind;           /* enum rung_kind */
    uint64_t wait_ms;   /* before the next rung */
    uint64_t repeat_ms; /* do it again this often while waiting, 0: once */
};

struct plan_probe {
    int kind; /* enum probe_kind */
    char *host;
    uint64_t port;
    char *path;      /* http */
    uint64_t status; /* http: wanted status, 0: any 2xx */
    char *match;     /* http body, console pattern */
    char **argv;     /* exec */
    uint64_t interval_ms, timeout_ms, start_period_ms;
    uint64_t retries;
    int action; /* enum health_action */
};

struct plan {
    uint64_t schema;
    char *name;
    char *run_dir, *state_dir, *log_dir; /* of this VM, absolute */

    struct plan_step *prepare;
    size_t n_prepare;

    struct plan_disk *disks;
    size_t n_disks;

    struct {
        char *path;
        char **argv;
        char **env;
        /* NULL: as the shim. Numbers, since the shim neither waits for a directory service nor loads its libraries. */
        char *user;
        uint64_t uid, gid;
        char **groups;       /* supplementary ones, as decimal numbers; at most PLAN_GROUPS_MAX */
        char **capabilities; /* what it keeps, "cap_net_bind_service"; NULL: none */
        struct plan_file *files;
        size_t n_files;
        bool agent;       /* the guest agent has a channel */
        uint64_t memlock; /* bytes it may lock into memory, as devices that reach the guest's memory need; 0: as the shim */
    } qemu;

    struct {
        uint64_t size; /* bytes */
        bool shared;   /* memfd of the shim; false: private to QEMU */
    } ram;

    struct {
        int policy; /* enum restart_policy */
        uint64_t delay_ms, max_delay_ms, max_attempts, reset_after_ms;
    } restart;

    struct plan_probe *health;
    size_t n_health;

    struct plan_rung *stop;
    size_t n_stop;

    struct {
        uint64_t max_size;
        uint64_t keep;
    } logs;

    struct limits limits; /* set by the manager, on the scope it puts the shim into */

    /* How the next start begins: from a snapshot. It says nothing of what the VM is, so it isn't part of the digest, and the shim takes it
     * out of plan.json once the guest runs: a restart later boots. */
    struct {
        char *folder;   /* of the snapshot, absolute; NULL: none, and the rest means nothing */
        int mode;       /* enum restore_mode */
        bool prefetch;  /* load the known working set first */
        bool record;    /* learn the working set if none is known */
        bool ephemeral; /* a VM that was made for learning it, and goes when that is done */
    } restore;
};

extern const struct record_type plan_type;

/* Whether the file of this path is a disk that is made of files. */
bool plan_disk_is_made(const struct plan *plan, const char *path);

/* Digest of a plan but for its restore: equal plans, equal digests, whatever the order of keys. */
int plan_digest(const struct plan *plan, char ret_hex[17]);

int plan_from_json(const json_t *json, struct plan *ret_plan, struct err *err); /* checks schema and what must be there */
int plan_to_json(const struct plan *plan, json_t **ret_json);
void plan_clear(struct plan *plan);
#define auto_plan auto_cleanup(plan_clear)
