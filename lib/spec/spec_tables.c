/* The native spec as tables: keys, kinds, ranges and defaults. What depends on more than one field is in spec_check.c. */
#include "lib/spec/spec_internal.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/spec/limits.h"
#include "proto/plan.h"

static const char *const network_modes[] = { [NETWORK_USER] = "user", [NETWORK_TAP] = "tap" };
const struct enum_names network_mode_names = { "network mode", network_modes, ARRAY_LEN(network_modes) };

static const char *const accel_modes[] = { [ACCEL_AUTO] = "auto", [ACCEL_KVM] = "kvm", [ACCEL_TCG] = "tcg" };
const struct enum_names accel_mode_names = { "accel", accel_modes, ARRAY_LEN(accel_modes) };

static const char *const confidential_modes[] = {
    [CONFIDENTIAL_NONE] = "none", [CONFIDENTIAL_TDX] = "tdx", [CONFIDENTIAL_SEV_SNP] = "sev-snp", [CONFIDENTIAL_AUTO] = "auto"
};
const struct enum_names confidential_mode_names = { "confidential", confidential_modes, ARRAY_LEN(confidential_modes) };

#define FIELD_AT(record, member) .offset = offsetof(record, member)
#define ARRAY_AT(record, member, count) .offset = offsetof(record, member), .count_offset = offsetof(record, count)

static const char *const image_updates[] = { [IMAGE_UPDATE_MANUAL] = "manual", [IMAGE_UPDATE_AUTO] = "auto" };
const struct enum_names image_update_names = { "image update", image_updates, ARRAY_LEN(image_updates) };

/* "auto" or a number. */
static int cid_parse(const json_t *value, void *slot, struct err *err)
{
    if (json_is_string(value) && streq(json_string_value(value), "auto")) {
        *(uint64_t *)slot = 0;
        return 0;
    }
    json_int_t n = json_is_integer(value) ? json_integer_value(value) : -1;
    if (n < VSOCK_CID_MIN || n > VSOCK_CID_MAX) {
        auto_free char *got = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        return err_set(err, EINVAL, "bad-record", "expected \"auto\" or a number from %d to %lld, got %s", VSOCK_CID_MIN,
                       (long long)VSOCK_CID_MAX, got ? got : "?");
    }
    *(uint64_t *)slot = (uint64_t)n;
    return 0;
}

static json_t *cid_emit(const void *slot)
{
    uint64_t cid = *(const uint64_t *)slot;
    return cid ? json_integer((json_int_t)cid) : json_string("auto");
}

static const struct field_codec codec_cid = { .parse = cid_parse, .emit = cid_emit };

static void disk_init(void *record) { ((struct spec_disk *)record)->persistent = true; }

static const struct field disk_fields[] = {
    { .key = "name", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_disk, name) },
    { .key = "size", .kind = FIELD_CUSTOM, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_disk, size), .codec = &codec_size },
    { .key = "persistent", .kind = FIELD_BOOL, FIELD_AT(struct spec_disk, persistent) },
    { .key = "path", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_disk, path) },
    { .key = "readonly", .kind = FIELD_BOOL, FIELD_AT(struct spec_disk, readonly) },
    { .key = "format", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_disk, format) },
    { .key = "backing", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_disk, backing) },
};
static const struct record_type disk_type = { "disk", sizeof(struct spec_disk), disk_init, disk_fields, ARRAY_LEN(disk_fields) };

static const struct field forward_fields[] = {
    { .key = "host", .kind = FIELD_STRING, .flags = FIELD_REQUIRED, FIELD_AT(struct spec_forward, host) },
    { .key = "guest", .kind = FIELD_UINT, .flags = FIELD_REQUIRED, FIELD_AT(struct spec_forward, guest), .min = 1, .max = UINT16_MAX },
    { .key = "proto", .kind = FIELD_STRING, FIELD_AT(struct spec_forward, proto) },
};
static const struct record_type forward_type = { "forward", sizeof(struct spec_forward), NULL, forward_fields, ARRAY_LEN(forward_fields) };

static const struct field network_fields[] = {
    { .key = "mode", .kind = FIELD_ENUM, FIELD_AT(struct spec_network, mode), .names = &network_mode_names },
    { .key = "mac", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_network, mac) },
    { .key = "ifname", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec_network, ifname) },
    { .key = "forward",
      .kind = FIELD_ARRAY,
      .flags = FIELD_OMIT_EMPTY,
      ARRAY_AT(struct spec_network, forward, n_forward),
      .type = &forward_type },
};
static const struct record_type network_type = { "network", sizeof(struct spec_network), NULL, network_fields, ARRAY_LEN(network_fields) };

static void probe_init(void *record)
{
    struct plan_probe *probe = record;

    probe->interval_ms = 10 * 1000;
    probe->timeout_ms = 2 * 1000;
    probe->start_period_ms = 60 * 1000;
    probe->retries = 3;
    probe->action = HEALTH_ACTION_NONE;
}

static const struct field probe_fields[] = {
    { .key = "type", .kind = FIELD_ENUM, .flags = FIELD_REQUIRED, FIELD_AT(struct plan_probe, kind), .names = &probe_kind_names },
    { .key = "host", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, host) },
    { .key = "port", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, port), .min = 1, .max = UINT16_MAX },
    { .key = "path", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, path) },
    { .key = "status", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, status), .min = 100, .max = 599 },
    { .key = "match", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, match) },
    { .key = "argv", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct plan_probe, argv) },
    { .key = "interval", .kind = FIELD_CUSTOM, FIELD_AT(struct plan_probe, interval_ms), .codec = &codec_duration },
    { .key = "timeout", .kind = FIELD_CUSTOM, FIELD_AT(struct plan_probe, timeout_ms), .codec = &codec_duration },
    { .key = "start_period", .kind = FIELD_CUSTOM, FIELD_AT(struct plan_probe, start_period_ms), .codec = &codec_duration },
    { .key = "retries", .kind = FIELD_UINT, FIELD_AT(struct plan_probe, retries), .min = 1, .max = PROBE_RETRIES_MAX },
    { .key = "action", .kind = FIELD_ENUM, FIELD_AT(struct plan_probe, action), .names = &health_action_names },
};
static const struct record_type probe_type = { "probe", sizeof(struct plan_probe), probe_init, probe_fields, ARRAY_LEN(probe_fields) };

/* The parts of struct spec that have no name of their own. */
typedef __typeof__(((struct spec *)0)->boot) spec_boot;
typedef __typeof__(((struct spec *)0)->image) spec_image;
typedef __typeof__(((struct spec *)0)->config_disk) spec_config_disk;
typedef __typeof__(((struct spec *)0)->seed) spec_seed;
typedef __typeof__(((struct spec *)0)->vsock) spec_vsock;
typedef __typeof__(((struct spec *)0)->restart) spec_restart;
typedef __typeof__(((struct spec *)0)->stop) spec_stop;
typedef __typeof__(((struct spec *)0)->logs) spec_logs;
typedef __typeof__(((struct spec *)0)->qemu) spec_qemu;

static const struct field boot_fields[] = {
    { .key = "kernel", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_boot, kernel) },
    { .key = "initrd", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_boot, initrd) },
    { .key = "cmdline", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_boot, cmdline) },
    { .key = "firmware", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_boot, firmware) },
};
static const struct record_type boot_type = { "boot", sizeof(spec_boot), NULL, boot_fields, ARRAY_LEN(boot_fields) };

static const struct field image_fields[] = {
    { .key = "name", .kind = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_OMIT_EMPTY, FIELD_AT(spec_image, name) },
    { .key = "version", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_image, version) },
    { .key = "update", .kind = FIELD_ENUM, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_image, update), .names = &image_update_names },
};
static const struct record_type image_type = { "image", sizeof(spec_image), NULL, image_fields, ARRAY_LEN(image_fields) };

static const struct field config_disk_fields[] = {
    { .key = "label", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_config_disk, label) },
    { .key = "directory", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_config_disk, directory) },
    { .key = "files", .kind = FIELD_MAP, .flags = FIELD_OMIT_EMPTY, ARRAY_AT(spec_config_disk, files, n_files) },
};
static const struct record_type config_disk_type = { "config disk", sizeof(spec_config_disk), NULL, config_disk_fields,
                                                     ARRAY_LEN(config_disk_fields) };

static const struct field seed_fields[] = {
    { .key = "user_data", .kind = FIELD_STRING, .flags = FIELD_REQUIRED | FIELD_OMIT_EMPTY, FIELD_AT(spec_seed, user_data) },
    { .key = "meta_data", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_seed, meta_data) },
    { .key = "network_config", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_seed, network_config) },
};
static const struct record_type seed_type = { "seed", sizeof(spec_seed), NULL, seed_fields, ARRAY_LEN(seed_fields) };

static const struct field vsock_fields[] = {
    { .key = "cid", .kind = FIELD_CUSTOM, FIELD_AT(spec_vsock, cid), .codec = &codec_cid },
};
static const struct record_type vsock_type = { "vsock", sizeof(spec_vsock), NULL, vsock_fields, ARRAY_LEN(vsock_fields) };

static const struct field restart_fields[] = {
    { .key = "policy", .kind = FIELD_ENUM, FIELD_AT(spec_restart, policy), .names = &restart_policy_names },
    { .key = "delay", .kind = FIELD_CUSTOM, FIELD_AT(spec_restart, delay_ms), .codec = &codec_duration },
    { .key = "max_delay", .kind = FIELD_CUSTOM, FIELD_AT(spec_restart, max_delay_ms), .codec = &codec_duration },
    { .key = "max_attempts", .kind = FIELD_UINT, FIELD_AT(spec_restart, max_attempts), .max = RESTART_ATTEMPTS_MAX },
    { .key = "reset_after", .kind = FIELD_CUSTOM, FIELD_AT(spec_restart, reset_after_ms), .codec = &codec_duration },
};
static const struct record_type restart_type = { "restart", sizeof(spec_restart), NULL, restart_fields, ARRAY_LEN(restart_fields) };

static const struct field stop_fields[] = {
    { .key = "timeout", .kind = FIELD_CUSTOM, FIELD_AT(spec_stop, timeout_ms), .codec = &codec_duration },
};
static const struct record_type stop_type = { "stop", sizeof(spec_stop), NULL, stop_fields, ARRAY_LEN(stop_fields) };

static const struct field logs_fields[] = {
    { .key = "max_size", .kind = FIELD_CUSTOM, FIELD_AT(spec_logs, max_size), .codec = &codec_size },
    { .key = "keep", .kind = FIELD_UINT, FIELD_AT(spec_logs, keep), .max = LOG_KEEP_MAX },
};
static const struct record_type logs_type = { "logs", sizeof(spec_logs), NULL, logs_fields, ARRAY_LEN(logs_fields) };

static const struct field qemu_fields[] = {
    { .key = "path", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_qemu, path) },
    { .key = "user", .kind = FIELD_STRING, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_qemu, user) },
    { .key = "extra_args", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(spec_qemu, extra_args) },
};
static const struct record_type qemu_type = { "qemu", sizeof(spec_qemu), NULL, qemu_fields, ARRAY_LEN(qemu_fields) };

static void spec_init(void *record)
{
    struct spec *spec = record;

    spec->enabled = true;
    spec->cpus = 1;
    spec->accel = ACCEL_AUTO;
    spec->restart.policy = RESTART_ON_FAILURE;
    spec->restart.delay_ms = 1000;
    spec->restart.max_delay_ms = 60 * 1000;
    spec->restart.max_attempts = 5;
    spec->restart.reset_after_ms = 5 * 60 * 1000;
    spec->stop.timeout_ms = 60 * 1000;
    spec->logs.max_size = 16 << 20;
    spec->logs.keep = 3;
}

static const struct field spec_fields[] = {
    { .key = "name", .kind = FIELD_STRING, .flags = FIELD_REQUIRED, FIELD_AT(struct spec, name) },
    { .key = "enabled", .kind = FIELD_BOOL, FIELD_AT(struct spec, enabled) },
    { .key = "cpus", .kind = FIELD_UINT, FIELD_AT(struct spec, cpus), .min = 1, .max = CPUS_MAX },
    { .key = "memory", .kind = FIELD_CUSTOM, .flags = FIELD_REQUIRED, FIELD_AT(struct spec, memory), .codec = &codec_size },
    { .key = "accel", .kind = FIELD_ENUM, FIELD_AT(struct spec, accel), .names = &accel_mode_names },
    { .key = "boot", .kind = FIELD_OBJECT, FIELD_AT(struct spec, boot), .type = &boot_type },
    { .key = "image", .kind = FIELD_OBJECT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec, image), .type = &image_type },
    { .key = "disks", .kind = FIELD_ARRAY, ARRAY_AT(struct spec, disks, n_disks), .type = &disk_type },
    { .key = "config_disk",
      .kind = FIELD_OBJECT,
      .flags = FIELD_OMIT_EMPTY,
      FIELD_AT(struct spec, config_disk),
      .type = &config_disk_type },
    { .key = "seed", .kind = FIELD_OBJECT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec, seed), .type = &seed_type },
    { .key = "network", .kind = FIELD_ARRAY, ARRAY_AT(struct spec, network, n_network), .type = &network_type },
    { .key = "vsock", .kind = FIELD_OBJECT, FIELD_AT(struct spec, vsock), .type = &vsock_type },
    { .key = "gpus", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec, gpus) },
    { .key = "confidential",
      .kind = FIELD_ENUM,
      .flags = FIELD_OMIT_EMPTY,
      FIELD_AT(struct spec, confidential),
      .names = &confidential_mode_names },
    { .key = "restart", .kind = FIELD_OBJECT, FIELD_AT(struct spec, restart), .type = &restart_type },
    { .key = "health", .kind = FIELD_ARRAY, ARRAY_AT(struct spec, health, n_health), .type = &probe_type },
    { .key = "agent", .kind = FIELD_BOOL, FIELD_AT(struct spec, agent) },
    { .key = "stop", .kind = FIELD_OBJECT, FIELD_AT(struct spec, stop), .type = &stop_type },
    { .key = "logs", .kind = FIELD_OBJECT, FIELD_AT(struct spec, logs), .type = &logs_type },
    { .key = "limits", .kind = FIELD_OBJECT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct spec, limits), .type = &limits_type },
    { .key = "qemu", .kind = FIELD_OBJECT, FIELD_AT(struct spec, qemu), .type = &qemu_type },
};
const struct record_type spec_type = { "spec", sizeof(struct spec), spec_init, spec_fields, ARRAY_LEN(spec_fields) };
