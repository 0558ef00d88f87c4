/* What the files of this folder share: the manager itself. */
#pragma once

#include <sys/resource.h>

#include "lib/base/dirs.h"
#include "lib/base/map.h"
#include "lib/base/parse.h"
#include "lib/base/pidref.h"
#include "lib/loop/loop.h"
#include "lib/loop/worker.h"
#include "lib/manager/config.h"
#include "lib/manager/manager.h"
#include "lib/manager/spec_folder.h"
#include "lib/manager/vm.h"
#include "lib/varlink/idl.h"
#include "lib/varlink/service.h"
#include "proto/launch.h"

enum {
    SHIM_TIMEOUT_MS = 2000, /* for an answer of a shim */
    ADOPT_GRACE_MS = 300,   /* how long serving waits for shims that don't answer */
    CONNECT_FIRST_MS = 50,  /* a shim that holds its lock and doesn't listen is just beginning or just ending */
    DEAD_ANSWERS_MAX = 3,   /* as often a shim may have died between its answer and the look at its process */
    CONNECT_MIN_MS = 1000,
    CONNECT_MAX_MS = 10 * 1000,
    ADOPT_RETRY_MS = 1000,     /* until the next try after an adoption in vain; doubled each time, up to 64 s */
    LOOK_TORN_DOWN_MS = 250,   /* at a QEMU that has closed its files and isn't gone, as of a TDX guest for hours */
    LOOK_AGAIN_MS = 10 * 1000, /* at an orphan whose process can't be watched */
    RELAUNCH_DELAY_MS = 1000,  /* when shim and QEMU died without a word; doubled each time … */
    RELAUNCH_MAX_MS = 60 * 1000,
    RELAUNCH_ATTEMPTS = 5, /* … so often */
    RELAUNCH_RESET_MS = 5 * 60 * 1000,
    FOLDER_MODE = 0750,
    FILE_MODE = 0640,
    SOCKET_MODE = 0660,
};

struct qemu_cache;
struct allocations;
struct gpu_move;
struct image_updates;
struct gpus;
struct scopes;
struct drain_call;
struct shim_call;
struct long_job;
struct warm;
struct subscriber;
struct watch;
struct rollout;

struct manager {
    struct loop *loop;
    struct dirs dirs;
    struct host_config config, *old_configs;
    bool log_level_given; /* by the command line: the config's doesn't count */
    bool reloading, reload_again;
    char *specs_dir; /* CONFIG/vms, or as the config says */
    char *shim_path;
    char *sysfs_root; /* NULL: the host's own */
    gid_t group;      /* (gid_t)-1: none */
    rlim_t nofile;    /* the soft limit we were started with; children get it back */
    char boot_id[BOOT_ID_LEN + 1];
    int lock_fd;
    int run_fd, run_vms_fd, state_fd, state_vms_fd, snapshots_fd, specs_fd, log_fd;

    struct map *vms; /* name → struct vm, one reference each */
    struct varlink_interface *manager_interface, *shim_interface, *images_interface;
    struct varlink_service *service;
    struct worker *reader;    /* plans, specs, records */
    struct worker *writer;    /* everything written, in order */
    struct worker *prober;    /* QEMUs asked what they can do */
    struct worker *archivist; /* the store of snapshots looked at, things deleted from it */
    struct worker *verifier;  /* snapshots read from end to end */
    struct worker *watcher;   /* the folder of specs and the host config looked at: they may be on a dead mount */
    struct qemu_cache *qemus;
    struct allocations *allocations;
    struct gpus *gpus;
    struct gpu_move *gpu_moves;
    struct image_updates *image_updates;
    struct scopes *scopes;
    char *scope_problem; /* that was told last */
    struct shim_call *calls;
    struct subscriber *subscribers;
    struct long_job *long_jobs; /* that may be called off */
    struct warm *warms;
    unsigned draining; /* 0: no; else how many VMs at a time are shut down (drain.h) */
    struct drain_call *drain_calls;
    size_t events_pending; /* appends handed to the writer and not done */

    struct watch *watch;
    struct rollout *rollout;
    struct spec_folder specs; /* as of the last look */
    struct {
        dev_t dev;
        ino_t ino;
    } specs_home;        /* the folder that last had any; ino 0: none yet */
    char *specs_lost;    /* why the folder of specs can't be believed, NULL: it can */
    char *specs_empty;   /* it was found empty at the start, NULL: it wasn't, or isn't any more */
    bool specs_away;     /* there is no such folder */
    bool editing;        /* a VM's edited spec is being looked at */
    ev_timer gone_timer; /* the next VM whose spec is gone is to be stopped */

    size_t adopting; /* VMs whose shim was asked at start and has not answered */
    bool serving, stopping;
    unsigned checking; /* batches of specs being checked in the background */
    size_t checked;    /* specs since the last time there were none to check */
    uint64_t check_began_us;
    uint64_t next_start_us; /* when the next start of our own accord may begin (config.start_interval) */
    ev_timer grace, watchdog;
    ev_signal signals[3];
};
