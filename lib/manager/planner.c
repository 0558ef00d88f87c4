#include "lib/manager/planner.h"

#include <errno.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/disk/own_disks.h"
#include "lib/host/host.h"
#include "lib/manager/allocations.h"
#include "lib/manager/frozen.h"
#include "lib/manager/launch_record.h"
#include "lib/manager/plan_allocate.h"
#include "lib/manager/plan_host.h"
#include "lib/manager/plan_image.h"
#include "lib/manager/plan_restore.h"
#include "lib/manager/qemu_cache.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/limits.h"
#include "lib/spec/load.h"

static void plan_place_clear(struct plan_place *place)
{
    free(place->run);
    free(place->state);
    free(place->log);
}

void plan_request_free(struct plan_request *p)
{
    if (!p)
        return;
    fd_close(p->plan_fd);
    fd_close(p->release_fd);
    free(p->image_name);
    free(p->image_version);
    json_decref(p->problems);
    json_decref(p->spec);
    json_decref(p->running);
    json_decref(p->next);
    json_decref(p->native);
    json_decref(p->given);
    wanted_restore_clear(&p->restore);
    plan_place_clear(&p->place);
    claims_clear(&p->claims);
    gpu_wish_clear(&p->gpus);
    free(p->spec_file);
    free(p->qemu_user);
    free(p->authorized_keys);
    free(p->qemu_path);
    vm_unref(p->vm);
    free(p);
}

bool plan_awaits_image(const struct plan_request *p) { return p->r == -ENOENT && p->image_name && streq(p->err.id, "no-such-image"); }

static int place_of(const struct plan_request *p, struct plan_place *f);

/* The number of problems with the disks that are there already and the files others are to be made of, or -ENOMEM. The disks of a restore are
 * the snapshot's. */
static int check_disks(struct plan_request *p, const struct spec *spec, struct spec_finding *finding)
{
    struct plan_place auto_cleanup(plan_place_clear) place = { 0 };
    int n = 0, r = p->restore.vm ? 0 : place_of(p, &place);

    if (r >= 0 && !p->restore.vm)
        r = n = own_disks_check(spec, place.state, spec_found, finding);
    if (r >= 0)
        r = spec_recipes_digest(spec, spec_found, finding, &p->digests);
    return r < 0 ? r : n + r;
}

static int read_spec(struct plan_request *p, struct spec *ret_spec, bool *ret_spvm)
{
    auto_json json_t *json = NULL;
    struct spec_reader reader = {
        .problem = specs_collect_problem,
        .sysfs_root = p->vm->manager->sysfs_root,
        .authorized_keys = p->authorized_keys,
    };
    struct spec spec = { 0 };
    int r;

    if (p->given)
        json = json_incref(p->given);
    r = p->given ? 0 : specs_read(p->vm->manager->specs_fd, p->spec_file, &json, &p->err);
    if (r < 0)
        return r;
    if (p->use & (PLAN_SHOW | PLAN_LAUNCH))
        p->spec = json_incref(json);
    reader.arg = p->problems = json_array();
    r = p->problems ? spec_load(json, &reader, &spec) : -ENOMEM;
    if (r > 0)
        return specs_problems_err(p->problems, &p->err);
    if (r < 0)
        return r;
    if (!streq(spec.name, p->vm->name)) {
        r = err_set(&p->err, EINVAL, "bad-spec", "%s is the spec of \"%s\" now", p->spec_file, spec.name);
    } else {
        r = spec_load_host(json, &spec, &reader);
        if (r == 0)
            r = check_disks(p, &spec, &(struct spec_finding){ json, &reader });
        if (r > 0)
            r = specs_problems_err(p->problems, &p->err);
    }
    if (r < 0) {
        spec_clear(&spec);
        return r;
    }
    *ret_spvm = spec_is_spvm(json);
    *ret_spec = spec;
    return 0;
}

static int place_of(const struct plan_request *p, struct plan_place *f)
{
    const struct vm *vm = p->vm;
    const struct dirs *dirs = &vm->manager->dirs;

    if (p->place.run)
        return str_set(&f->run, p->place.run) < 0 || str_set(&f->state, p->place.state) < 0 || str_set(&f->log, p->place.log) < 0 ? -ENOMEM
                                                                                                                                  : 0;
    if (str_format(&f->run, "%s/%s/%s", dirs->run, FOLDER_VMS, vm->name) < 0 ||
        str_format(&f->state, "%s/%s/%s", dirs->state, FOLDER_VMS, vm->name) < 0 || str_format(&f->log, "%s/%s", dirs->log, vm->name) < 0)
        return -ENOMEM;
    return 0;
}

/* The spec's own, or the host's: borrowed of either. */
static int find_user(struct plan_request *p, const struct spec *spec, const struct plan_host *host, struct qemu_user *own,
                     const struct qemu_user **ret_user)
{
    const struct qemu_user *user = &host->user;
    int r = host->user_r;

    if (spec->qemu.user) {
        r = qemu_user_find(spec->qemu.user, own, &p->err);
        user = own;
    } else if (r < 0) {
        p->err = host->user_err;
    }
    if (r >= 0)
        *ret_user = user->name ? user : NULL;
    return r;
}

static int resolve(struct plan_request *p, struct spec *spec, const struct plan_host *host, const struct qemu_capabilities *capabilities,
                   struct plan *ret_plan)
{
    struct plan_place auto_cleanup(plan_place_clear) place = { 0 };
    struct resolve_input in = {
        .spec = spec,
        .capabilities = capabilities,
        .qemu_path = p->qemu_path,
        .qemu_img_path = host->qemu_img,
        .kvm_usable = spec->accel != ACCEL_TCG && host->kvm_usable,
        .kvm_group = host->kvm_group,
        .vsock_cid = spec->vsock.cid,
        .sysfs_root = p->vm->manager->sysfs_root,
    };
    struct host facts = { 0 };
    auto_qemu_user struct qemu_user own = { 0 };
    auto_free char *mkdisk = NULL, *release_dir = NULL;
    int r;

    r = find_user(p, spec, host, &own, &in.user);
    if (r < 0)
        return r;
    if (p->features && (r = host_read(in.sysfs_root, host_cpuid_native, &facts)) < 0)
        return r;
    in.host = &facts;
    in.config_digest = p->digests.config[0] ? p->digests.config : NULL;
    in.seed_digest = p->digests.seed[0] ? p->digests.seed : NULL;
    if (in.config_digest || in.seed_digest)
        r = program_find("holdfast-mkdisk", &mkdisk, &p->err);
    if (r < 0)
        return r;
    in.mkdisk_path = mkdisk;
    r = place_of(p, &place);
    if (r < 0)
        return r;
    r = plan_image_apply(p, spec, &release_dir);
    if (r < 0)
        return r;
    in.release_dir = release_dir;
    in.run_dir = place.run;
    in.state_dir = place.state;
    in.log_dir = place.log;
    return plan_resolve(&in, ret_plan, &p->err);
}

static int make_folder(int parent, const char *name, const char *what, struct err *err)
{
    if (mkdirat(parent, name, FOLDER_MODE) < 0 && errno != EEXIST)
        return err_set_errno(err, errno, "no-folder", "can't make the VM's folder %s/%s", what, name);
    return 0;
}

static int make_folders(struct plan_request *p)
{
    const struct manager *m = p->vm->manager;
    int r;

    if (p->place.run) {
        r = dir_make(p->place.run, FOLDER_MODE, &p->err);
        if (r >= 0)
            r = dir_make(p->place.state, FOLDER_MODE, &p->err);
        return r < 0 ? r : dir_make(p->place.log, FOLDER_MODE, &p->err);
    }
    r = make_folder(m->run_vms_fd, p->vm->name, m->dirs.run, &p->err);
    if (r >= 0)
        r = make_folder(m->state_vms_fd, p->vm->name, m->dirs.state, &p->err);
    if (r >= 0)
        r = make_folder(m->log_fd, p->vm->name, m->dirs.log, &p->err);
    return r;
}

/* What the VM is launched with, for the day its spec is edited. Without it that day changes nothing by itself, which is no reason not to
 * launch. */
static void record_launch(const struct plan_request *p)
{
    struct launch_record record = {
        .folder = p->vm->manager->specs_dir,
        .file = p->spec_file,
        .spec = p->spec,
        .native = p->native,
    };

    memcpy(record.plan_digest, p->digest, sizeof(record.plan_digest));
    int r = p->place.run ? 0 : launch_record_write(p->vm->manager->run_vms_fd, p->vm->name, &record);

    if (r < 0)
        log_vm_warning(p->vm->name, "can't write %s, so a later edit of its spec will only be shown: %s", FILE_SPEC, strerror(-r));
}

static int make_memfd(struct plan_request *p, const json_t *plan)
{
    auto_free char *text = NULL;
    size_t len;
    int r;

    r = json_format(plan, &text, &len);
    if (r < 0)
        return r;
    p->plan_fd = fd_from_data("plan", text, len);
    return p->plan_fd < 0 ? p->plan_fd : 0;
}

/* Whether QEMU is handed its devices, or opens their groups by itself, the plan says. */
static int wish_gpus(const struct spec *spec, const struct plan *plan, struct gpu_wish *ret_wish)
{
    struct gpu_wish wish = { .by_group = true, .has_user = plan->qemu.user, .uid = (uid_t)plan->qemu.uid, .gid = (gid_t)plan->qemu.gid };
    auto_strv struct strv devices = { 0 };

    for (size_t i = 0; i < plan->qemu.n_files; i++)
        if (plan->qemu.files[i].kind == FILE_VFIO)
            wish.by_group = false;
    for (size_t i = 0; i < spec_n_gpus(spec); i++)
        strv_push(&devices, spec->gpus[i]);
    if (devices.failed)
        return -ENOMEM;
    wish.devices = devices.items;
    devices = (struct strv){ 0 };
    *ret_wish = wish;
    return 0;
}

static int make_plan(struct plan_request *p, struct spec *spec, const struct plan_host *host)
{
    struct qemu_capabilities capabilities = { 0 };
    auto_plan struct plan plan = { 0 };
    auto_json json_t *json = NULL;
    int r;

    p->features = plan_needs_features(spec);
    if (!p->qemu_path) {
        const char *path = spec->qemu.path ? spec->qemu.path : qemu_default_path();

        if (!path)
            return err_set(&p->err, ENOENT, "no-qemu", "no QEMU for this host's architecture is installed: install it or set qemu.path");
        r = str_set(&p->qemu_path, path);
        if (r < 0)
            return r;
    }
    r = qemu_cache_get(p->vm->manager->qemus, p->qemu_path, p->features, &capabilities, &p->err);
    if (r < 0)
        return r;
    if (p->use & (PLAN_LAUNCH | PLAN_SHOW)) { /* before its image adds to it */
        json_decref(steal_ptr(&p->native));
        r = spec_emit(spec, &p->native);
    }
    if (r >= 0 && p->restore.vm)
        r = plan_restore_machine(p->vm->manager, &p->restore, &capabilities);
    if (r >= 0)
        r = resolve(p, spec, host, &capabilities, &plan);
    if (r >= 0 && p->restore.vm)
        r = plan_restore(p->vm->manager, &p->restore, p->prefetch, capabilities.version, &plan, &p->err);
    else if (r >= 0 && (p->use & PLAN_LAUNCH))
        r = frozen_check(p->vm->manager, &plan, &p->err);
    if (r >= 0 && (p->use & PLAN_LAUNCH) && p->restore.vm && plan.restore.mode != p->restore.mode)
        log_vm_warning(p->vm->name, "userfaultfd is turned off by HOLDFAST_UFFD=0: restored %s instead of %s",
                       enum_to_string(&restore_mode_names, plan.restore.mode), enum_to_string(&restore_mode_names, p->restore.mode));
    if (p->ephemeral) { /* learning is what it is for, whatever the host config says of other restores */
        plan.restore.ephemeral = plan.restore.record = true;
        plan.restore.prefetch = false;
    }
    qemu_capabilities_clear(&capabilities);
    p->scope_limits = plan.limits;
    if (r >= 0)
        r = plan_digest(&plan, p->digest);
    if (r >= 0)
        r = plan_to_json(&plan, &json);
    if (r >= 0 && (p->use & PLAN_LAUNCH))
        r = wish_gpus(spec, &plan, &p->gpus);
    if (r >= 0 && (p->use & PLAN_LAUNCH))
        r = make_folders(p);
    if (r >= 0 && (p->use & PLAN_LAUNCH))
        r = plan_image_use(p, spec);
    if (r >= 0 && (p->use & PLAN_LAUNCH))
        r = make_memfd(p, json);
    if (r >= 0 && (p->use & PLAN_LAUNCH))
        record_launch(p);
    if (r >= 0 && (p->use & PLAN_SHOW))
        p->next = json_incref(json);
    return r;
}

static void read_running(struct plan_request *p)
{
    char path[VM_PATH_MAX];
    auto_free char *text = NULL;
    size_t len;

    if (file_read(p->vm->manager->run_vms_fd, vm_path(p->vm, FILE_PLAN, path), RECORD_MAX, &text, &len) >= 0)
        (void)json_parse(text, len, &p->running, NULL);
}

void plan_begin(struct plan_request *p, struct spec *ret_spec)
{
    bool spvm = false;

    json_decref(steal_ptr(&p->problems));
    json_decref(steal_ptr(&p->spec));
    json_decref(steal_ptr(&p->running));
    p->err = ERR_INIT;
    if (p->use & PLAN_SHOW)
        read_running(p);
    p->r = read_spec(p, ret_spec, &spvm);
    if (p->r >= 0)
        p->r = plan_allocate(p, ret_spec, spvm);
}

void plan_end(struct plan_request *p, struct spec *spec, const struct plan_host *host, int committed)
{
    if (p->r >= 0 && committed < 0 && !(p->use & PLAN_TRY))
        p->r = err_set_errno(&p->err, -committed, "not-saved", "what was given to it can't be written to %s/allocations.json",
                             p->vm->manager->dirs.state);
    if (p->r >= 0 || p->r == -EAGAIN)
        p->r = make_plan(p, spec, host);
    if (p->r < 0 && p->r != -EAGAIN)
        err_from(&p->err, p->r, "making the launch plan");
}

static void run(struct job *job)
{
    struct plan_request *p = container_of(job, struct plan_request, job);
    auto_plan_host struct plan_host host = { 0 };
    auto_spec struct spec spec = { 0 };

    plan_begin(p, &spec);
    if (p->r >= 0)
        p->r = plan_host_look(p->qemu_user, &host);
    plan_end(p, &spec, &host, p->r < 0 ? 0 : allocations_commit(p->vm->manager->allocations));
}

static void ask(struct job *job)
{
    struct plan_request *p = container_of(job, struct plan_request, job);

    p->r = qemu_cache_ask(p->vm->manager->qemus, p->qemu_path, p->features, &p->err);
}

static void done(struct job *job);

static void ask_done(struct job *job)
{
    struct plan_request *p = container_of(job, struct plan_request, job);

    /* Once more from the start, whatever QEMU said: the cache knows it now, a failure too. */
    p->job.run = run;
    p->job.done = done;
    worker_add(p->vm->manager->reader, &p->job);
}

static void done(struct job *job)
{
    struct plan_request *p = container_of(job, struct plan_request, job);

    if (p->r == -EAGAIN && !p->asked && p->qemu_path) {
        p->asked = true;
        p->job.run = ask;
        p->job.done = ask_done;
        worker_add(p->vm->manager->prober, &p->job);
        return;
    }
    if (p->r == -EAGAIN) /* the binary is being replaced under our eyes */
        err_set(&p->err, EAGAIN, "no-qemu", "%s changes while it is looked at: try again", p->qemu_path ? p->qemu_path : "QEMU");
    p->done(p);
}

static bool contends(const struct vm *vm, unsigned use)
{
    bool wanted = vm->has_wanted ? vm->wanted.wish == WANTED_RUNNING : vm->enabled;
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN || vm->launch;

    return (use & (PLAN_LAUNCH | PLAN_ADMIT)) || lives || wanted;
}

struct plan_request *plan_request_new(struct vm *vm, unsigned use, void (*callback)(struct plan_request *p), void *arg)
{
    char file[VM_PATH_MAX];
    struct plan_request *p = calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->plan_fd = p->release_fd = -1;
    if (str_set(&p->spec_file, specs_file(vm, file)) < 0 || str_set(&p->qemu_user, vm->manager->config.qemu_user) < 0 ||
        str_set(&p->authorized_keys, vm->manager->config.vm_config.authorized_keys_file) < 0) {
        free(p->qemu_user);
        free(p->spec_file);
        free(p);
        return NULL;
    }
    p->prefetch = vm->manager->config.restore.prefetch;
    p->limits = vm->manager->config.limits;
    p->ports = vm->manager->config.ports;
    p->vm = vm_ref(vm);
    p->use = use;
    p->contends = contends(vm, use);
    p->done = callback;
    p->arg = arg;
    return p;
}

void plan_request_begin(struct plan_request *p)
{
    p->job.run = run;
    p->job.done = done;
    worker_add(p->vm->manager->reader, &p->job);
}

int plan_request(struct vm *vm, unsigned use, void (*callback)(struct plan_request *p), void *arg)
{
    struct plan_request *p = plan_request_new(vm, use, callback, arg);

    if (!p)
        return -ENOMEM;
    plan_request_begin(p);
    return 0;
}
