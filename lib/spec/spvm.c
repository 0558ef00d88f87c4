/* A VM file of the sp-vm watchdog becomes a spec: read by the tables, checked, mapped, and checked once more as any spec is. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/host/host.h"
#include "lib/spec/spec_internal.h"
#include "lib/spec/spvm_internal.h"

#define BUILD_DIR "/run_configuration/build_dir"
#define STATE_DISK "/qemu_configuration/state_disk_size_gb"
#define VM_BUILD "/run_configuration/vm_build"
#define DEBUG "/run_configuration/debug"
#define PROVIDER "/run_configuration/provider_config"

/* Where sp-vm's guest looks for them. */
#define CONFIGMAP "manifests/configmap.execution-controller-tee-prov.yaml"
#define CONFIGMAP_POINTER "manifests~1configmap.execution-controller-tee-prov.yaml"
#define CHALLENGE "manifests/secret.sp-pki-challenge.yaml"
#define CHALLENGE_POINTER "manifests~1secret.sp-pki-challenge.yaml"
#define AUTHORIZED_KEYS "authorized_keys"

/* ---- warnings ---- */

static void warn(const struct spec_reader *reader, const char *pointer, const char *text)
{
    struct err err = ERR_INIT;

    err_set(&err, EINVAL, "spec-warning", "%s: %s", pointer, text);
    reader->warning(reader->arg, &err);
}

/* A JSON Pointer token (RFC 6901). */
static void pointer_push(struct strv *pointer, const char *outer, const char *key)
{
    auto_free char *token = calloc(2, strlen(key) + 1);
    char *out = token;

    if (!token) {
        pointer->failed = true;
        return;
    }
    for (; *key; key++) {
        if (*key == '~' || *key == '/') {
            *out++ = '~';
            *out++ = *key == '~' ? '0' : '1';
        } else {
            *out++ = *key;
        }
    }
    strv_pushf(pointer, "%s/%s", outer, token);
}

static const struct field *find_field(const struct record_type *type, const char *key)
{
    for (size_t i = 0; i < type->n_fields; i++)
        if (streq(type->fields[i].key, key))
            return &type->fields[i];
    return NULL;
}

/* NOLINTNEXTLINE(misc-no-recursion): as deep as the types nest */
static int warn_of_unknown(const struct spec_reader *reader, const struct record_type *type, const char *outer, const json_t *json)
{
    const char *key;
    json_t *value;
    int r = 0;

    json_object_foreach ((json_t *)(uintptr_t)json, key, value) {
        const struct field *f = find_field(type, key);
        auto_strv struct strv pointer = { 0 };

        if (f && f->kind != FIELD_OBJECT)
            continue;
        pointer_push(&pointer, outer, key);
        if (pointer.failed)
            return -ENOMEM;
        if (!f)
            warn(reader, pointer.items[0], "unknown key, ignored");
        else
            r = warn_of_unknown(reader, f->type, pointer.items[0], value);
        if (r < 0)
            return r;
    }
    return 0;
}

int spvm_warn(const json_t *json, const struct spec_reader *reader)
{
    const json_t *cache_dir = json_object_get(json_object_get(json, "qemu_configuration"), "cache_dir");

    if (json_is_string(cache_dir))
        warn(reader, "/qemu_configuration/cache_dir", "not used: the disks of a VM are in its state folder");
    return warn_of_unknown(reader, &spvm_type, "", json);
}

/* ---- places ---- */

/* Where in an sp-vm file that is said which a spec has at the former place. The first that fits counts. */
static const struct {
    const char *native, *spvm;
} places[] = {
    { "/name", "/name" },
    { "/cpus", "/qemu_configuration/cores" },
    { "/memory", "/qemu_configuration/mem_gb" },
    { "/boot", BUILD_DIR },
    { "/image", VM_BUILD },
    { "/disks/0", BUILD_DIR }, /* of a release the state disk, which has none before it */
    { "/disks/1", STATE_DISK },
    { "/config_disk/files/authorized_keys", DEBUG },
    { "/config_disk/files/" CONFIGMAP_POINTER, PROVIDER "/execution_controller_tee_prov_configmap" },
    { "/config_disk/files/" CHALLENGE_POINTER, PROVIDER "/sp_pki_challenge_secret" },
    { "/config_disk/directory", PROVIDER "_directory" },
    { "/config_disk", PROVIDER },
    { "/network/0/mac", "/qemu_configuration/mac_address" },
    { "/network/0/forward", NULL }, /* by spvm_check(), which names the ports */
    { "/gpus", "/qemu_configuration/gpus" },
    { "/confidential", "/qemu_configuration/mode" },
    { "/vsock", "/qemu_configuration/guest_cid" },
    { "/qemu/path", "/qemu_configuration/qemu_path" },
};

static const char *place_of(const char *text, bool of_release)
{
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        size_t n = strlen(places[i].native);

        if (has_prefix(text, places[i].native) && (text[n] == '/' || text[n] == ':'))
            return of_release && streq(places[i].native, "/disks/0") ? STATE_DISK : places[i].spvm;
    }
    return "/qemu_configuration";
}

void spvm_place(const json_t *json, struct err *err)
{
    bool of_release = !json_is_string(json_object_get(json_object_get(json, "run_configuration"), "build_dir"));
    const char *colon = strstr(err->text, ": "), *pointer = colon ? place_of(err->text, of_release) : NULL;
    struct err native = *err;

    if (pointer)
        err_set(err, native.code, native.id, "%s%s", pointer, native.text + (colon - err->text));
}

struct translation {
    struct problems *problems;
    bool of_release;
};

/* For what is found in the spec that a file became. */
static void translated(void *arg, const struct err *err)
{
    const struct translation *t = arg;
    const char *colon = strstr(err->text, ": "), *inner = "";
    const char *pointer = colon ? place_of(err->text, t->of_release) : "/qemu_configuration";
    struct problems *p = t->problems;

    if (colon && pointer && has_prefix(err->text, "/gpus/")) /* an array there as here */
        inner = err->text + strlen("/gpus");
    /* What wasn't found lacks in the spec too, which is no news. */
    if (!pointer || (streq(pointer, BUILD_DIR) && (problem_under(p, BUILD_DIR) || problem_under(p, VM_BUILD))))
        return;
    if (streq(pointer, STATE_DISK) && problem_under(p, STATE_DISK))
        return;
    int n_inner = colon && *inner ? (int)(colon - inner) : 0;
    problem_add(p, "%s%.*s: %s", pointer, n_inner, inner, colon ? colon + 2 : err->text);
}

/* ---- mapping ---- */

static int set_disks(struct spec *spec, const struct spvm *vm, const struct spvm_build *build)
{
    struct spec_disk *disk = spec->disks = calloc(2, sizeof(*spec->disks));

    if (!disk)
        return -ENOMEM;
    spec->n_disks = vm->run.build_dir ? 2 : 1;
    if (vm->run.build_dir) { /* a release brings its own */
        disk->readonly = disk->persistent = true;
        if (str_set(&disk->path, build->image) < 0 || str_set(&disk->format, "raw") < 0)
            return -ENOMEM;
        disk++;
    }
    disk->size = vm->qemu.state_disk_size_gb << 30;
    disk->persistent = vm->qemu.state_disk_persistent;
    return str_set(&disk->name, "state");
}

static int add_config_file(struct spec *spec, const char *path, const char *source)
{
    struct pair *file = &spec->config_disk.files[spec->config_disk.n_files];

    if (!source)
        return 0;
    spec->config_disk.wanted = true;
    spec->config_disk.n_files++;
    return str_set(&file->key, path) < 0 ? -ENOMEM : str_set(&file->value, source);
}

/* Without anything to put there it has no such disk. */
static int set_config_disk(struct spec *spec, const struct spvm *vm, const char *authorized_keys)
{
    int r;

    spec->config_disk.files = calloc(3, sizeof(*spec->config_disk.files));
    if (!spec->config_disk.files)
        return -ENOMEM;
    spec->config_disk.wanted = vm->run.provider_config_directory != NULL;
    r = str_set(&spec->config_disk.directory, vm->run.provider_config_directory);
    if (r >= 0)
        r = add_config_file(spec, CONFIGMAP, vm->run.provider_config.configmap);
    if (r >= 0)
        r = add_config_file(spec, CHALLENGE, vm->run.provider_config.challenge);
    if (r >= 0 && vm->run.debug)
        r = add_config_file(spec, AUTHORIZED_KEYS, authorized_keys);
    return r < 0 || !spec->config_disk.wanted ? r : str_set(&spec->config_disk.label, "provider_config");
}

static int add_forward(struct spec_network *net, const char *address, uint64_t port, uint64_t guest, const char *proto)
{
    struct spec_forward *f = &net->forward[net->n_forward];

    if (!port)
        return 0;
    net->n_forward++;
    f->guest = guest;
    int r = str_format(&f->host, "%s:%d", address, (int)port);
    return r < 0 ? r : str_set(&f->proto, proto);
}

static int set_network(struct spec *spec, const struct spvm *vm)
{
    const char *address = vm->qemu.ip_address ? vm->qemu.ip_address : "0.0.0.0";
    struct spec_network *net;
    int r;

    net = spec->network = calloc(1, sizeof(*spec->network));
    if (!net)
        return -ENOMEM;
    spec->n_network = 1;
    net->mode = NETWORK_USER;
    net->forward = calloc(4, sizeof(*net->forward));
    if (!net->forward)
        return -ENOMEM;
    r = str_set(&net->mac, vm->qemu.mac_address);
    if (r >= 0)
        r = add_forward(net, address, vm->qemu.http_port, 80, "tcp");
    if (r >= 0)
        r = add_forward(net, address, vm->qemu.https_port, 443, "tcp");
    if (r >= 0)
        r = add_forward(net, address, vm->qemu.wg_port, 51820, "udp");
    if (r >= 0 && vm->run.debug)
        r = add_forward(net, "127.0.0.1", vm->qemu.ssh_port, 22, "tcp");
    return r;
}

/* What the guest's kernel needs to be told in each mode. */
static int mode_words(int confidential, const struct spvm_build *build, char **ret_words)
{
    if (confidential == CONFIDENTIAL_TDX)
        return str_set(ret_words, "clearcpuid=mtrr");
    if (confidential == CONFIDENTIAL_SEV_SNP)
        return str_format(ret_words, "build=%s pci=realloc,nocrs", build->build ? build->build : SPEC_IMAGE_VERSION);
    return 0;
}

/* What isn't a folder of the operator's own is a release; no name or "auto" is the newest. */
static int set_image(struct spec *spec, const struct spvm *vm)
{
    if (vm->run.build_dir)
        return 0;
    int r = str_set(&spec->image.version, vm->run.vm_build);
    return r < 0 ? r : str_set(&spec->image.name, SPVM_IMAGE);
}

/* Those that aren't NULL, with spaces between; none: NULL. */
static int join_words(const char *const *words, size_t n, char **ret_line)
{
    for (size_t i = 0; i < n; i++) {
        auto_free char *before = steal_ptr(ret_line);

        if (!words[i])
            *ret_line = steal_ptr(&before);
        else if (str_format(ret_line, "%s%s%s", before ? before : "", before ? " " : "", words[i]) < 0)
            return -ENOMEM;
    }
    return 0;
}

static int set_boot(struct spec *spec, const struct spvm *vm, const struct spvm_build *build)
{
    auto_free char *debug = NULL, *mode = NULL, *verity = NULL;
    int r = mode_words(spec->confidential, build, &mode);

    if (r >= 0 && vm->run.debug)
        r = str_format(&debug, "console=ttyS0 systemd.log_level=trace systemd.log_target=log argo_branch=%s argo_sp_env=%s sp-debug=true",
                       vm->run.argo_branch ? vm->run.argo_branch : "main", vm->run.argo_sp_env ? vm->run.argo_sp_env : "main");
    if (r >= 0 && build->rootfs_hash)
        r = str_format(&verity, SPEC_VERITY_CMDLINE "%s", build->rootfs_hash); /* a release adds its own */
    if (r >= 0)
        r = join_words((const char *const[]){ verity, debug, mode }, 3, &spec->boot.cmdline);
    if (r >= 0)
        r = str_set(&spec->boot.kernel, build->kernel);
    return r < 0 ? r : str_set(&spec->boot.firmware, build->firmware);
}

static int map_spec(struct spvm *vm, const struct spvm_build *build, const char *authorized_keys, struct spec *spec)
{
    int r = str_set(&spec->name, vm->name);

    spec->enabled = vm->enabled;
    spec->cpus = vm->qemu.cores;
    spec->memory = vm->qemu.mem_gb << 30;
    spec->vsock.wanted = true;
    spec->vsock.cid = vm->qemu.guest_cid;
    spec->gpus = steal_ptr(&vm->qemu.gpus);
    if (r >= 0)
        r = str_set(&spec->qemu.path, vm->qemu.qemu_path);
    if (r >= 0)
        r = set_image(spec, vm);
    if (r >= 0)
        r = set_boot(spec, vm, build);
    if (r >= 0)
        r = set_disks(spec, vm, build);
    if (r >= 0)
        r = set_config_disk(spec, vm, authorized_keys);
    return r < 0 ? r : set_network(spec, vm);
}

/* "auto" is what the host offers, nothing included. It is settled here, since firmware and command line hang on it. */
static int choose_mode(const struct spvm *vm, const struct spec_reader *reader, int *ret_confidential)
{
    static const int modes[] = {
        [SPVM_TDX] = CONFIDENTIAL_TDX,
        [SPVM_SEV_SNP] = CONFIDENTIAL_SEV_SNP,
        [SPVM_UNTRUSTED] = CONFIDENTIAL_NONE,
    };
    struct host host;

    if (vm->qemu.mode != SPVM_AUTO) {
        *ret_confidential = modes[vm->qemu.mode];
        return 0;
    }
    int r = host_read(spec_reader_sysfs(reader), host_cpuid_native, &host);
    if (r >= 0)
        *ret_confidential = host.tdx ? CONFIDENTIAL_TDX : host.sev_snp ? CONFIDENTIAL_SEV_SNP : CONFIDENTIAL_NONE;
    return r;
}

/* ---- the whole ---- */

/* The file as it is in memory: everything wrong with it in itself is told. */
static int read_file(const json_t *json, struct problems *p, struct spvm *vm)
{
    spvm_type.init(vm);
    int r = record_parse_all(&spvm_type, json, 0, vm, problem_from_record, p);
    if (r < 0)
        return r;
    spvm_check(vm, p);
    return 0;
}

int spvm_parse(const json_t *json, const struct spec_reader *reader, struct spec *ret_spec)
{
    auto_problems struct problems problems = { .report = reader->problem, .arg = reader->arg };
    struct translation translation = { .problems = &problems };
    auto_problems struct problems native = { .report = translated, .arg = &translation };
    auto_spvm_build struct spvm_build build = { 0 };
    auto_spec struct spec spec = { 0 };
    struct spvm vm = { 0 };

    spec_type.init(&spec);
    int r = spec_warnings(json, reader);
    if (r >= 0)
        r = read_file(json, &problems, &vm);
    if (r >= 0)
        r = choose_mode(&vm, reader, &spec.confidential);
    if (r >= 0 && vm.run.build_dir && !problem_under(&problems, BUILD_DIR))
        r = spvm_build_read(reader->root, vm.run.build_dir, spec.confidential == CONFIDENTIAL_SEV_SNP, &problems, &build);
    if (r >= 0)
        r = map_spec(&vm, &build, reader->authorized_keys, &spec);
    translation.of_release = spec.image.name;
    if (r >= 0)
        r = spec_check(&spec, &native);
    record_clear(&spvm_type, &vm);
    if (r < 0)
        return r;
    if (problems.paths.failed || native.paths.failed)
        return -ENOMEM;
    if (problems.n == 0) {
        *ret_spec = spec;
        spec = (struct spec){ 0 };
    }
    return problems.n;
}

/* ---- the host ---- */

int spvm_check_host(const json_t *json, const struct spec *spec, const struct spec_reader *reader)
{
    auto_problems struct problems problems = { .report = reader->problem, .arg = reader->arg };
    struct translation translation = { &problems, spec->image.name };

    int r = spec_check_host(spec, translated, &translation);
    if (r >= 0)
        r = spec_check_host_devices(spec, spec_reader_sysfs(reader), translated, &translation);
    if (r < 0)
        return r;
    return problems.paths.failed ? -ENOMEM : problems.n;
}
