/* Spec → launch plan: pure, so that golden files can hold every argv. Same input, same plan. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/parse.h"
#include "lib/host/host.h"
#include "lib/qemu/capabilities.h"
#include "lib/spec/spec.h"
#include "proto/plan.h"

/* Whom QEMU runs as when it isn't who starts it. */
struct qemu_user {
    char *name; /* or its number as text */
    uint64_t uid, gid;
    char **groups; /* decimal numbers, NULL-ended; may be NULL */
};

struct resolve_input {
    const struct spec *spec;
    const struct qemu_capabilities *capabilities;
    const char *qemu_path;                   /* absolute */
    const char *qemu_img_path;               /* absolute; needed when disks must be made */
    const char *mkdisk_path;                 /* absolute; needed when disks are made of files */
    const char *config_digest, *seed_digest; /* of what is to be on such disks; NULL: the spec has no such disk */
    bool kvm_usable;
    const char *run_dir, *state_dir, *log_dir; /* of this VM */
    const struct qemu_user *user;              /* NULL: as the shim */
    const char *kvm_group;                     /* number of the group that may open /dev/kvm, NULL: all may, or none */
    const char *release_dir;                   /* of the image, locked while QEMU lives; the spec has had its release applied */
    uint64_t vsock_cid;                        /* allocated; 0: none */
    const struct host *host;                   /* NULL: offers nothing to confidential guests */
    const char *sysfs_root;                    /* in front of /sys where devices are, NULL: nothing */
};

/* Whether the QEMU of a VM with this spec must have been asked for its features. */
bool plan_needs_features(const struct spec *spec);

/* The address of a network whose spec names none: locally administered, in the range QEMU uses, the rest from the VM's name, so that it is
 * stable, and different for different VMs as far as 24 bits go. `attempt` 0; where that is taken, others. */
void network_default_mac(const char *name, size_t index, unsigned attempt, char ret_mac[MAC_TEXT_MAX]);

/* Everything in the spec that is left to the host ("auto" ports) must have been given by now; MACs and the context id may be. */
int plan_resolve(const struct resolve_input *in, struct plan *ret_plan, struct err *err);
