#include "lib/qemu/resolve.h"

#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/qemu/argv.h"
#include "lib/qemu/made_disks.h"
#include "lib/spec/claims.h"
#include "lib/spec/limits.h"

enum { FIRST_FREE_PORT = 1024 }; /* below it a capability is needed: ip(7) */

/* A plan is JSON, so a path that isn't UTF-8 has no place in it; and every path in it is absolute. */
static int check_input_path(const char *what, const char *path, struct err *err)
{
    if (!path || path[0] != '/')
        return err_set(err, EINVAL, "bad-path", "%s '%s' is not an absolute path", what, path ? path : "");
    auto_json json_t *json = NULL;
    int r = json_make_string(path, &json);
    return r == -EINVAL ? err_set(err, EINVAL, "bad-path", "%s is not valid UTF-8", what) : r;
}

static int check_given(const struct resolve_input *in, struct err *err)
{
    struct in_addr addr;

    for (size_t i = 0; i < in->spec->n_network; i++)
        for (size_t k = 0; k < in->spec->network[i].n_forward; k++)
            if (host_port_is_auto(in->spec->network[i].forward[k].host, &addr))
                return err_set(err, EINVAL, "no-port", "/network/%zu/forward/%zu/host: no port was given for it", i, k);
    if (in->spec->vsock.wanted && in->vsock_cid < VSOCK_CID_MIN)
        return err_set(err, EINVAL, "no-cid", "no vsock CID was allocated for this VM");
    return 0;
}

static int check_input(const struct resolve_input *in, struct err *err)
{
    const struct {
        const char *what, *path;
    } paths[] = {
        { "the path of QEMU", in->qemu_path },
        { "the VM's run folder", in->run_dir },
        { "the VM's state folder", in->state_dir },
        { "the VM's log folder", in->log_dir },
    };

    for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
        int r = check_input_path(paths[i].what, paths[i].path, err);
        if (r < 0)
            return r;
    }
    if (!in->spec->name || !name_is_valid(in->spec->name))
        return err_set(err, EINVAL, "bad-spec", "the VM has no valid name");
    if (in->spec->n_disks > DISKS_MAX || in->spec->n_network > NETWORKS_MAX)
        return err_set(err, EINVAL, "bad-spec", "more disks or networks than have a place");
    if (spec_n_gpus(in->spec) > GPUS_MAX)
        return err_set(err, EINVAL, "bad-spec", "more devices to pass than have a place");
    if (in->spec->image.name && !in->release_dir)
        return err_set(err, ENOENT, "no-image", "no release of image %s was found for this VM", in->spec->image.name);
    return check_given(in, err);
}

static int choose_accel(const struct resolve_input *in, bool *ret_kvm, struct err *err)
{
    if (in->spec->accel == ACCEL_KVM && !in->kvm_usable)
        return err_set(err, ENODEV, "no-kvm",
                       "accel is \"kvm\", but this host's CPU has no vmx or svm or /dev/kvm can't be opened; "
                       "say \"auto\" or \"tcg\", or enable (nested) virtualization");
    *ret_kvm = in->spec->accel == ACCEL_KVM || (in->spec->accel == ACCEL_AUTO && in->kvm_usable);
    return 0;
}

static int choose_family(const struct resolve_input *in, enum machine_family *ret, struct err *err)
{
    const char *machine = in->capabilities->machine;

    if (machine && has_prefix(machine, "pc-q35-"))
        *ret = MACHINE_Q35;
    else if (machine && has_prefix(machine, "virt-"))
        *ret = MACHINE_VIRT;
    else
        return err_set(err, EINVAL, "no-machine", "machine type '%s' is not one this version can use", machine ? machine : "");
    return 0;
}

static bool binds_low_port(const struct spec *spec)
{
    for (size_t i = 0; i < spec->n_network; i++)
        for (size_t k = 0; k < spec->network[i].n_forward; k++) {
            struct in_addr addr;
            uint16_t port;

            if (parse_host_port(spec->network[i].forward[k].host, &addr, &port) >= 0 && port < FIRST_FREE_PORT)
                return true;
        }
    return false;
}

static int resolve_user(const struct resolve_input *in, bool kvm, struct plan *plan)
{
    auto_strv struct strv groups = { 0 }, capabilities = { 0 };

    for (size_t i = 0; in->user && in->user->groups && in->user->groups[i]; i++)
        strv_push(&groups, in->user->groups[i]);
    if (in->user && kvm && in->kvm_group)
        strv_push(&groups, in->kvm_group);
    if (binds_low_port(in->spec))
        strv_push(&capabilities, "cap_net_bind_service"); /* QEMU's user network listens on the host's side itself */
    if (groups.failed || capabilities.failed || (in->user && str_set(&plan->qemu.user, in->user->name) < 0))
        return -ENOMEM;
    if (in->user) {
        plan->qemu.uid = in->user->uid;
        plan->qemu.gid = in->user->gid;
    }
    plan->qemu.groups = groups.items;
    plan->qemu.capabilities = capabilities.items;
    groups = capabilities = (struct strv){ 0 };
    return 0;
}

static int resolve_qemu(const struct resolve_input *in, struct plan *plan, struct err *err)
{
    static const char *const environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8" };
    struct argv a = { .in = in };
    auto_strv struct strv env = { 0 };

    int r = choose_accel(in, &a.kvm, err);
    if (r < 0)
        return r;
    r = choose_family(in, &a.family, err);
    if (r < 0)
        return r;
    r = tee_choose(&a, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ARRAY_LEN(environment); i++)
        strv_push(&env, environment[i]);
    r = argv_build(&a);
    auto_strv struct strv words = a.words;
    plan->qemu.files = a.files;
    plan->qemu.n_files = a.n_files;
    if (r >= 0)
        r = resolve_user(in, a.kvm, plan);
    if (r < 0 || env.failed || str_set(&plan->qemu.path, in->qemu_path) < 0)
        return -ENOMEM;
    plan->qemu.agent = in->spec->agent;
    plan->qemu.memlock = argv_memlock(&a);
    plan->ram.shared = !argv_memory_is_private(&a);
    plan->qemu.argv = words.items;
    plan->qemu.env = env.items;
    words = (struct strv){ 0 };
    env = (struct strv){ 0 };
    return 0;
}

/* Under another name, so that a maker which is killed leaves no half disk under the real one. */
static int disk_step(const struct resolve_input *in, const struct spec_disk *disk, struct plan_step *step)
{
    char size[SIZE_TEXT_MAX];
    auto_strv struct strv argv = { 0 };

    if (disk_path(in, disk, &step->creates) < 0 || str_format(&step->writes, "%s.new", step->creates) < 0 ||
        str_format(&step->what, "create disk %s (%s)", disk->name, format_size(disk->size, size)) < 0)
        return -ENOMEM;
    strv_push(&argv, in->qemu_img_path);
    strv_push(&argv, "create");
    strv_push(&argv, "-q");
    strv_push(&argv, "-f");
    strv_push(&argv, spec_disk_format(disk));
    strv_push(&argv, "--");
    strv_push(&argv, step->writes);
    strv_push(&argv, size);
    if (argv.failed)
        return -ENOMEM;
    step->argv = argv.items;
    argv = (struct strv){ 0 };
    return 0;
}

static int own_disk(const struct resolve_input *in, const struct spec_disk *disk, struct plan_disk *own)
{
    own->size = disk->size;
    own->fresh = !disk->persistent;
    if (str_set(&own->name, disk->name) < 0 || str_set(&own->format, spec_disk_format(disk)) < 0 ||
        str_set(&own->qemu_img, in->qemu_img_path) < 0)
        return -ENOMEM;
    return disk_path(in, disk, &own->path);
}

static int resolve_prepare(const struct resolve_input *in, struct plan *plan, struct err *err)
{
    const struct spec *spec = in->spec;

    if (spec->n_disks == 0)
        return 0;
    plan->prepare = calloc(spec->n_disks, sizeof *plan->prepare);
    plan->disks = calloc(spec->n_disks, sizeof *plan->disks);
    if (!plan->prepare || !plan->disks)
        return -ENOMEM;
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (spec->disks[i].path)
            continue;
        if (!in->qemu_img_path)
            return err_set(err, ENOENT, "no-qemu-img",
                           "qemu-img is needed to make disk %s, and was not found; install it (Debian: qemu-utils)", spec->disks[i].name);
        int r = check_input_path("the path of qemu-img", in->qemu_img_path, err);
        if (r < 0)
            return r;
        r = disk_step(in, &spec->disks[i], &plan->prepare[plan->n_prepare++]);
        if (r >= 0)
            r = own_disk(in, &spec->disks[i], &plan->disks[plan->n_disks++]);
        if (r < 0)
            return r;
    }
    return 0;
}

static int copy_strv(char *const *from, char ***ret)
{
    auto_strv struct strv v = { 0 };

    for (size_t i = 0; from && from[i]; i++)
        strv_push(&v, from[i]);
    if (v.failed)
        return -ENOMEM;
    *ret = v.items;
    v = (struct strv){ 0 };
    return 0;
}

static int copy_probe(const struct plan_probe *from, struct plan_probe *to)
{
    *to = *from;
    to->host = to->path = to->match = NULL;
    to->argv = NULL;
    if (str_set(&to->host, from->host) < 0 || str_set(&to->path, from->path) < 0 || str_set(&to->match, from->match) < 0)
        return -ENOMEM;
    return copy_strv(from->argv, &to->argv);
}

static int resolve_health(const struct spec *spec, struct plan *plan)
{
    if (spec->n_health == 0)
        return 0;
    plan->health = calloc(spec->n_health, sizeof *plan->health);
    if (!plan->health)
        return -ENOMEM;
    for (size_t i = 0; i < spec->n_health; i++) {
        plan->n_health++;
        if (copy_probe(&spec->health[i], &plan->health[i]) < 0)
            return -ENOMEM;
    }
    return 0;
}

/* Guests ignore the power button early in boot, hence the repetition. The waits after it are for QEMU itself, not for the guest. */
static int resolve_stop(const struct spec *spec, struct plan *plan)
{
    const struct plan_rung ladder[] = {
        { .kind = RUNG_AGENT, .wait_ms = 5000 }, /* an agent that hears it acts within moments; the rest of the time is the button's */
        { .kind = RUNG_ACPI, .wait_ms = spec->stop.timeout_ms, .repeat_ms = 5000 },
        { .kind = RUNG_QUIT, .wait_ms = 5000 },
        { .kind = RUNG_TERM, .wait_ms = 5000 },
        { .kind = RUNG_KILL, .wait_ms = 10000 },
        { .kind = RUNG_CGROUP, .wait_ms = 10000 },
    };

    plan->stop = calloc(ARRAY_LEN(ladder), sizeof *plan->stop);
    if (!plan->stop)
        return -ENOMEM;
    for (size_t i = 0; i < ARRAY_LEN(ladder); i++) {
        bool polite = ladder[i].kind == RUNG_AGENT || ladder[i].kind == RUNG_ACPI;

        if ((polite && spec->stop.timeout_ms == 0) || (ladder[i].kind == RUNG_AGENT && !spec->agent))
            continue;
        plan->stop[plan->n_stop++] = ladder[i];
    }
    return 0;
}

static int resolve_policies(const struct spec *spec, struct plan *plan)
{
    plan->ram.size = spec->memory;
    plan->restart.policy = spec->restart.policy;
    plan->restart.delay_ms = spec->restart.delay_ms;
    plan->restart.max_delay_ms = spec->restart.max_delay_ms;
    plan->restart.max_attempts = spec->restart.max_attempts;
    plan->restart.reset_after_ms = spec->restart.reset_after_ms;
    plan->logs.max_size = spec->logs.max_size;
    plan->logs.keep = spec->logs.keep;
    plan->limits = spec->limits;
    int r = resolve_health(spec, plan);
    return r < 0 ? r : resolve_stop(spec, plan);
}

int plan_resolve(const struct resolve_input *in, struct plan *ret_plan, struct err *err)
{
    auto_plan struct plan plan = { .schema = PLAN_SCHEMA };
    auto_made_disks struct made_disks made = { 0 };
    struct resolve_input full = *in;

    int r = check_input(in, err);
    if (r < 0)
        return r;
    if (str_set(&plan.name, in->spec->name) < 0 || str_set(&plan.run_dir, in->run_dir) < 0 || str_set(&plan.state_dir, in->state_dir) < 0 ||
        str_set(&plan.log_dir, in->log_dir) < 0)
        return -ENOMEM;
    r = made_disks_init(in, &made, err);
    if (r < 0)
        return r;
    full.spec = &made.spec;
    r = resolve_qemu(&full, &plan, err);
    if (r < 0)
        return r;
    r = resolve_prepare(&full, &plan, err);
    if (r >= 0)
        r = made_disks_push(in, &made, &plan);
    if (r < 0)
        return r;
    r = resolve_policies(in->spec, &plan);
    if (r < 0)
        return r;
    *ret_plan = plan;
    plan = (struct plan){ 0 };
    return 0;
}
