/* The sp-vm format as tables: keys, kinds, ranges and defaults. What depends on more than one field is in spvm_check.c. */
#include "lib/base/util.h"
#include "lib/spec/limits.h"
#include "lib/spec/spvm_internal.h"

static const char *const modes[] = { [SPVM_AUTO] = "auto", [SPVM_TDX] = "tdx", [SPVM_SEV_SNP] = "sev-snp", [SPVM_UNTRUSTED] = "untrusted" };
const struct enum_names spvm_mode_names = { "mode", modes, ARRAY_LEN(modes) };

typedef __typeof__(((struct spvm *)0)->run) spvm_run;
typedef __typeof__(((struct spvm *)0)->run.provider_config) spvm_provider;
typedef __typeof__(((struct spvm *)0)->qemu) spvm_qemu;

#define FIELD_AT(record, member) .offset = offsetof(record, member)

static const struct field provider_fields[] = {
    { .key = "execution_controller_tee_prov_configmap", .kind = FIELD_STRING, FIELD_AT(spvm_provider, configmap) },
    { .key = "sp_pki_challenge_secret", .kind = FIELD_STRING, FIELD_AT(spvm_provider, challenge) },
};
static const struct record_type provider_type = { "provider config", sizeof(spvm_provider), NULL, provider_fields,
                                                  ARRAY_LEN(provider_fields) };

static const struct field run_fields[] = {
    { .key = "debug", .kind = FIELD_BOOL, FIELD_AT(spvm_run, debug) },
    { .key = "build_dir", .kind = FIELD_STRING, FIELD_AT(spvm_run, build_dir) },
    { .key = "vm_build", .kind = FIELD_STRING, FIELD_AT(spvm_run, vm_build) },
    { .key = "argo_branch", .kind = FIELD_STRING, FIELD_AT(spvm_run, argo_branch) },
    { .key = "argo_sp_env", .kind = FIELD_STRING, FIELD_AT(spvm_run, argo_sp_env) },
    { .key = "provider_config", .kind = FIELD_OBJECT, FIELD_AT(spvm_run, provider_config), .type = &provider_type },
    { .key = "provider_config_directory", .kind = FIELD_STRING, FIELD_AT(spvm_run, provider_config_directory) },
};
static const struct record_type run_type = { "run configuration", sizeof(spvm_run), NULL, run_fields, ARRAY_LEN(run_fields) };

#define PORT(name)                                                                               \
    {                                                                                            \
        .key = #name, .kind = FIELD_UINT, FIELD_AT(spvm_qemu, name), .min = 1, .max = UINT16_MAX \
    }

static const struct field qemu_fields[] = {
    { .key = "qemu_path", .kind = FIELD_STRING, FIELD_AT(spvm_qemu, qemu_path) },
    { .key = "mode", .kind = FIELD_ENUM, FIELD_AT(spvm_qemu, mode), .names = &spvm_mode_names },
    { .key = "cores", .kind = FIELD_UINT, .flags = FIELD_REQUIRED, FIELD_AT(spvm_qemu, cores), .min = 1, .max = CPUS_MAX },
    { .key = "mem_gb", .kind = FIELD_UINT, .flags = FIELD_REQUIRED, FIELD_AT(spvm_qemu, mem_gb), .min = 1, .max = MEMORY_MAX >> 30 },
    { .key = "state_disk_size_gb",
      .kind = FIELD_UINT,
      .flags = FIELD_REQUIRED,
      FIELD_AT(spvm_qemu, state_disk_size_gb),
      .min = 1,
      .max = DISK_SIZE_MAX >> 30 },
    { .key = "state_disk_persistent", .kind = FIELD_BOOL, FIELD_AT(spvm_qemu, state_disk_persistent) },
    { .key = "gpus", .kind = FIELD_STRV, FIELD_AT(spvm_qemu, gpus) },
    { .key = "cache_dir", .kind = FIELD_STRING, FIELD_AT(spvm_qemu, cache_dir) },
    { .key = "mac_address", .kind = FIELD_STRING, FIELD_AT(spvm_qemu, mac_address) },
    { .key = "ip_address", .kind = FIELD_STRING, FIELD_AT(spvm_qemu, ip_address) },
    PORT(ssh_port),
    PORT(wg_port),
    PORT(http_port),
    PORT(https_port),
    { .key = "guest_cid", .kind = FIELD_UINT, FIELD_AT(spvm_qemu, guest_cid), .min = VSOCK_CID_MIN, .max = VSOCK_CID_MAX },
};
static const struct record_type qemu_type = { "QEMU configuration", sizeof(spvm_qemu), NULL, qemu_fields, ARRAY_LEN(qemu_fields) };

static void spvm_init(void *record)
{
    struct spvm *vm = record;

    vm->enabled = true;
    vm->qemu.mode = SPVM_AUTO;
    vm->qemu.ssh_port = 2222;
    vm->qemu.wg_port = 51820;
}

static const struct field spvm_fields[] = {
    { .key = "name", .kind = FIELD_STRING, .flags = FIELD_REQUIRED, FIELD_AT(struct spvm, name) },
    { .key = "enabled", .kind = FIELD_BOOL, FIELD_AT(struct spvm, enabled) },
    { .key = "run_configuration", .kind = FIELD_OBJECT, .flags = FIELD_REQUIRED, FIELD_AT(struct spvm, run), .type = &run_type },
    { .key = "qemu_configuration", .kind = FIELD_OBJECT, .flags = FIELD_REQUIRED, FIELD_AT(struct spvm, qemu), .type = &qemu_type },
};
const struct record_type spvm_type = { "sp-vm file", sizeof(struct spvm), spvm_init, spvm_fields, ARRAY_LEN(spvm_fields) };
