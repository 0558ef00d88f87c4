/* The sp-vm format as it is written, before it becomes a struct spec. For the spvm*.c files. */
#pragma once

#include "lib/spec/load.h"
#include "lib/spec/problems.h"

/* The image whose releases "vm_build" names. */
#define SPVM_IMAGE "sp-vm"

enum spvm_mode { SPVM_AUTO, SPVM_TDX, SPVM_SEV_SNP, SPVM_UNTRUSTED };
extern const struct enum_names spvm_mode_names;

struct spvm {
    char *name;
    bool enabled; /* true */
    struct {
        bool debug;
        char *build_dir, *vm_build;      /* NULL, NULL: the latest of the image service */
        char *argo_branch, *argo_sp_env; /* NULL: "main" */
        char *provider_config_directory; /* or the two below */
        struct {
            char *configmap, *challenge;
        } provider_config;
    } run;
    struct {
        char *qemu_path;
        int mode; /* enum spvm_mode */
        uint64_t cores, mem_gb, state_disk_size_gb;
        bool state_disk_persistent;
        char **gpus;
        char *cache_dir, *mac_address, *ip_address;
        uint64_t ssh_port, wg_port, http_port, https_port; /* 0: no forward */
        uint64_t guest_cid;                                /* 0: auto */
    } qemu;
};
extern const struct record_type spvm_type;

/* What of the format is wrong in itself, and what this version can't do. */
void spvm_check(const struct spvm *vm, struct problems *p);

/* What a build folder holds for direct boot. */
struct spvm_build {
    char *kernel, *firmware, *image; /* absolute paths, as the host sees them */
    char *rootfs_hash;
    char *build; /* by the image's name */
};
/* Looks into `folder` below `root`; `amd`: for a guest of SEV-SNP, which has a firmware of its own. What is missing or odd goes to `p`, and then the build is incomplete. 0 or -ENOMEM. */
int spvm_build_read(const char *root, const char *folder, bool amd, struct problems *p, struct spvm_build *ret_build);
void spvm_build_clear(struct spvm_build *build);
#define auto_spvm_build auto_cleanup(spvm_build_clear)

int spvm_warn(const json_t *json, const struct spec_reader *reader);
/* As spec_parse(), of a spec in the sp-vm format. */
int spvm_parse(const json_t *json, const struct spec_reader *reader, struct spec *ret_spec);
/* Puts the place of the sp-vm file that a place in its spec stands for in the error's text. */
void spvm_place(const json_t *json, struct err *err);
/* As spec_check_host(), with the places named as in the sp-vm file. */
int spvm_check_host(const json_t *json, const struct spec *spec, const struct spec_reader *reader);
