/* A VM spec: what an operator writes (DESIGN §10), with defaults filled in. Native JSON here; other formats become the same struct. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "proto/limits.h"
#include "proto/states.h"

struct spec_disk {
    char *name;      /* a disk of ours: STATE/vms/VM/NAME.qcow2, or NAME.raw */
    uint64_t size;   /* bytes; for disks of ours */
    bool persistent; /* true; of disks of ours: false is made anew at each start of QEMU */
    char *path;      /* or somebody's file */
    bool readonly;
    char **backing; /* files below a qcow2 image of `path`, the nearest first; their format by their names. NULL: as the image says */
    char *format;   /* "raw" or "qcow2"; NULL: qcow2 for ours, for `path` by its name (".qcow2" or else raw). Never by content:
                     * a guest can write a qcow2 header into its raw disk, one that names any file of the host */
};

struct spec_forward {
    char *host; /* "ADDRESS:PORT" or "ADDRESS:auto" as written; checked */
    uint64_t guest;
    char *proto; /* "tcp" or "udp" */
};

enum network_mode { NETWORK_USER, NETWORK_TAP };
extern const struct enum_names network_mode_names;

struct spec_network {
    int mode;     /* enum network_mode */
    char *mac;    /* NULL: stable, derived from VM name and index */
    char *ifname; /* tap: an existing device */
    struct spec_forward *forward;
    size_t n_forward;
};

enum accel_mode { ACCEL_AUTO, ACCEL_KVM, ACCEL_TCG };
extern const struct enum_names accel_mode_names;

/* What keeps the host out of the guest's memory. AUTO: what the host offers, which may be nothing. */
enum confidential_mode { CONFIDENTIAL_NONE, CONFIDENTIAL_TDX, CONFIDENTIAL_SEV_SNP, CONFIDENTIAL_AUTO };
extern const struct enum_names confidential_mode_names;

/* When a VM whose image has no fixed version gets a newer one. */
enum image_update {
    IMAGE_UPDATE_DEFAULT, /* as the host config says */
    IMAGE_UPDATE_MANUAL,  /* when it is started the next time */
    IMAGE_UPDATE_AUTO,    /* it is restarted for it, at the host's update time */
};
extern const struct enum_names image_update_names;

struct spec {
    char *name;
    bool enabled;    /* true */
    uint64_t cpus;   /* 1 */
    uint64_t memory; /* bytes, whole MiB */
    int accel;
    struct {
        char *kernel, *initrd, *cmdline; /* direct kernel boot */
        char *firmware;                  /* or a firmware image; NULL with disks: QEMU's own BIOS */
    } boot;
    /* A release of the image store: its kernel and firmware are booted, its rootfs is the first disk, before `disks`. */
    struct {
        char *name;    /* NULL: none */
        char *version; /* NULL: "auto", the newest there is */
        int update;
    } image;
    struct spec_disk *disks;
    size_t n_disks;
    struct {
        bool wanted;
        char *label;        /* "config" */
        char *directory;    /* all that is in it; may be NULL */
        struct pair *files; /* path on the disk, path on the host */
        size_t n_files;
    } config_disk; /* a read-only ext4 behind the disks */
    struct {
        bool wanted;
        char *user_data, *meta_data, *network_config; /* but for the first they may be NULL */
    } seed;                                           /* cloud-init's, behind that */
    struct spec_network *network;
    size_t n_network;
    struct {
        bool wanted;
        uint64_t cid; /* 0: auto */
    } vsock;
    char **gpus;      /* PCI addresses of the host as "0000:c1:00.0", no two the same; NULL: none */
    int confidential; /* enum confidential_mode */
    struct {
        int policy;
        uint64_t delay_ms, max_delay_ms, max_attempts, reset_after_ms;
    } restart;                 /* on-failure 1s 1m 5 5m */
    struct plan_probe *health; /* as in the plan */
    size_t n_health;
    bool agent; /* a channel for the QEMU guest agent; a probe of type agent makes it true */
    struct {
        uint64_t timeout_ms; /* 60 s */
    } stop;
    struct {
        uint64_t max_size, keep; /* 16M 3 */
    } logs;
    struct limits limits;
    struct {
        char *path; /* NULL: qemu-system-ARCH of this host in PATH */
        char *user; /* name or number; NULL: the host's default */
        char **extra_args;
    } qemu;
};

/* Parses and checks one native spec, reporting every mistake it has (id "bad-spec"), each with its JSON Pointer in front of the text
 * ("/disks/0/size: expected a size like \"20G\", got 20").
 * `report` may be NULL. Returns the number of mistakes (0: *ret_spec is the caller's), or -ENOMEM. */
int spec_parse(const json_t *json, void (*report)(void *arg, const struct err *err), void *arg, struct spec *ret_spec);

/* What only this host can say: kernel, initrd, firmware, disk paths and QEMU there and usable; tap present. Reports as above. */
int spec_check_host(const struct spec *spec, void (*report)(void *arg, const struct err *err), void *arg);

/* The same of its devices, and of its confidential mode, by what is below `root`/sys and `root`/proc; NULL: the host's own. */
int spec_check_host_devices(const struct spec *spec, const char *root, void (*report)(void *arg, const struct err *err), void *arg);

/* How a kernel is told to find and verify a root file system whose dm-verity root hash follows. */
#define SPEC_VERITY_CMDLINE "root=LABEL=rootfs rootfs_verity.scheme=dm-verity rootfs_verity.hash="

/* In the command line of a VM with an image: the release's version. */
#define SPEC_IMAGE_VERSION "{image.version}"

/* The files of a release, absolute paths; NULL: it has none. */
struct spec_release {
    const char *version;
    const char *kernel, *initrd, *firmware;
    const char *rootfs;      /* raw image, becomes the first disk, read-only */
    const char *rootfs_hash; /* root hash of its dm-verity tree, hexadecimal */
};
/* Gives a spec with an image what that brings. Once. 0 or -ENOMEM, then half done. */
int spec_apply_release(struct spec *spec, const struct spec_release *release);

/* "raw" or "qcow2": as the spec says, else by what the path ends in. */
const char *spec_disk_format(const struct spec_disk *disk);
const char *spec_path_format(const char *path);

size_t spec_n_gpus(const struct spec *spec);

/* Native form with all defaults written out. */
int spec_emit(const struct spec *spec, json_t **ret_json);
void spec_clear(struct spec *spec);
#define auto_spec auto_cleanup(spec_clear)
