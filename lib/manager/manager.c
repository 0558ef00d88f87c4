#include "lib/manager/manager.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/adopt.h"
#include "lib/manager/allocations.h"
#include "lib/manager/api.h"
#include "lib/manager/call.h"
#include "lib/manager/drain.h"
#include "lib/manager/follow.h"
#include "lib/manager/forget.h"
#include "lib/manager/gpu_move.h"
#include "lib/manager/gpus.h"
#include "lib/manager/image_update.h"
#include "lib/manager/launch.h"
#include "lib/manager/manager_lock.h"
#include "lib/manager/planner.h"
#include "lib/manager/qemu_cache.h"
#include "lib/manager/qemu_user.h"
#include "lib/manager/registry.h"
#include "lib/manager/rollout.h"
#include "lib/manager/scope.h"
#include "lib/manager/serve.h"
#include "lib/manager/snapshot_task.h"
#include "lib/manager/snapshots.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/spec_gone.h"
#include "lib/manager/state.h"
#include "lib/manager/vm_scope.h"
#include "lib/manager/warm.h"
#include "lib/manager/watch.h"
#include "proto/interfaces.h"

enum {
    READER_THREADS = 3,   /* a file on a dead mount holds up one of them */
    STOP_GRACE_MS = 2000, /* for what is being written when we are told to end */
};

static const char default_group[] = "holdfast";

/* ---- folders ---- */

struct folder {
    const char *base, *sub; /* sub NULL: base itself */
    int *fd;
    bool may_link; /* what is in the folder of specs is looked after by its owner; folders with our records are no links */
};

/* Makes and opens it. What is made there later belongs to the managing group, too: the set-group-id bit, inode(7). */
static int open_folder(const struct manager *m, const struct folder *folder, struct err *err)
{
    auto_free char *path = NULL;
    auto_fd int fd = -1;
    struct stat st;
    int r;

    r = folder->sub ? str_format(&path, "%s/%s", folder->base, folder->sub) : str_set(&path, folder->base);
    if (r < 0)
        return r;
    r = dir_make(path, FOLDER_MODE, err);
    if (r < 0)
        return r;
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (folder->may_link ? 0 : O_NOFOLLOW));
    if (fd < 0)
        return err_set_errno(err, errno, "no-folder", "can't open %s", path);
    if (faccessat(fd, ".", W_OK | X_OK, AT_EACCESS) < 0)
        return err_set_errno(err, errno, "no-folder", "can't write in %s", path);
    if (m->group != (gid_t)-1 && fstat(fd, &st) == 0 && st.st_gid != m->group) {
        if (fchown(fd, (uid_t)-1, m->group) < 0 || fchmod(fd, FOLDER_MODE | S_ISGID) < 0)
            return err_set_errno(err, errno, "no-folder", "can't give %s to its group", path);
    }
    *folder->fd = steal_fd(&fd);
    return 0;
}

static int open_folders(struct manager *m, struct err *err)
{
    const struct folder folders[] = {
        { .base = m->dirs.run, .fd = &m->run_fd },
        { .base = m->dirs.run, .sub = FOLDER_VMS, .fd = &m->run_vms_fd },
        { .base = m->dirs.state, .fd = &m->state_fd },
        { .base = m->dirs.state, .sub = FOLDER_VMS, .fd = &m->state_vms_fd },
        { .base = m->dirs.log, .fd = &m->log_fd },
        { .base = m->specs_dir, .fd = &m->specs_fd, .may_link = true },
        { .base = m->dirs.state, .sub = FOLDER_SNAPSHOTS, .fd = &m->snapshots_fd },
    };
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(folders) && r >= 0; i++) {
        r = open_folder(m, &folders[i], err);
        if (r >= 0 && i == 0)
            r = manager_lock_take(m, err); /* before anything else is touched */
    }
    return r;
}

/* ---- making ---- */

static int find_group(struct manager *m, const char *wanted, struct err *err)
{
    const char *name = wanted ? wanted : m->config.group ? m->config.group : default_group;
    const struct group *g;

    m->group = (gid_t)-1;
    errno = 0;
    g = getgrnam(name); /* cppcheck-suppress getgrnamCalled ; before there are threads */
    if (g)
        m->group = g->gr_gid;
    else if (wanted || m->config.group)
        return err_set(err, ENOENT, "no-group", "there is no group \"%s\" on this host", name);
    else
        return 0;
    /* Only root can give files to just any group; another user manages alone. */
    if (geteuid() != 0 && !wanted && !m->config.group)
        m->group = (gid_t)-1;
    return 0;
}

static int copy_dirs(struct manager *m, const struct dirs *dirs)
{
    if (str_set(&m->dirs.run, dirs->run) < 0 || str_set(&m->dirs.state, dirs->state) < 0 || str_set(&m->dirs.log, dirs->log) < 0 ||
        str_set(&m->dirs.config, dirs->config) < 0)
        return -ENOMEM;
    return 0;
}

static int find_specs(struct manager *m)
{
    if (m->config.vm_config.configs_dir)
        return str_set(&m->specs_dir, m->config.vm_config.configs_dir);
    return str_format(&m->specs_dir, "%s/%s", m->dirs.config, FOLDER_VMS);
}

/* Each VM is two fds to us: its line and its pidfd. */
static void raise_limit(struct manager *m)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    m->nofile = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        log_warning("can't raise the limit on open files to %llu: %s", (unsigned long long)limit.rlim_max, strerror(errno));
}

static int make_parts(struct manager *m, struct err *err)
{
    auto_free char *aside = NULL, *gpus_aside = NULL;
    int r;

    r = varlink_interface_parse(manager_interface_text, &m->manager_interface, err);
    if (r >= 0)
        r = varlink_interface_parse(shim_interface_text, &m->shim_interface, err);
    if (r >= 0)
        r = varlink_interface_parse(images_interface_text, &m->images_interface, err);
    if (r >= 0)
        r = map_new(&m->vms);
    if (r >= 0)
        r = loop_new(&m->loop);
    if (r >= 0)
        r = qemu_cache_new(&m->qemus);
    if (r >= 0)
        r = allocations_new(m->state_fd, &m->allocations, &aside, err);
    if (r >= 0)
        r = gpus_new(m->state_fd, m->sysfs_root, &m->gpus, &gpus_aside, err);
    if (r >= 0)
        r = scopes_new(m->loop, &(struct scopes_config){ .run_dir = m->dirs.run }, &m->scopes);
    if (r >= 0)
        r = worker_new(m->loop, READER_THREADS, &m->reader);
    if (r >= 0)
        r = worker_new(m->loop, 1, &m->writer);
    if (r >= 0)
        r = worker_new(m->loop, 1, &m->prober);
    if (r >= 0)
        r = worker_new(m->loop, 1, &m->archivist);
    if (r >= 0)
        r = worker_new(m->loop, 1, &m->verifier);
    if (r >= 0)
        r = worker_new(m->loop, 1, &m->watcher);
    if (r >= 0)
        r = watch_new(m);
    if (r >= 0)
        r = rollout_new(m);
    if (r >= 0)
        r = image_updates_new(m);
    if (aside)
        log_error("allocations.json doesn't parse and was kept as %s: context ids, MAC addresses and ports are given anew", aside);
    if (gpus_aside)
        log_error("gpus.json doesn't parse and was kept as %s: devices that VMs have had are not given back to their drivers", gpus_aside);
    return r < 0 ? err_from(err, r, "starting the manager") : 0;
}

static void on_signal(struct ev_loop *ev, ev_signal *w, int events)
{
    struct manager *m = w->data;

    if (w->signum == SIGHUP) {
        log_info("told to look at the host config and the specs again");
        watch_kick(m);
        return;
    }
    log_info("%s: leaving, all VMs run on", strsignal(w->signum));
    (void)sd_notify(0, "STOPPING=1");
    m->stopping = true;
    loop_stop(m->loop, 0);
}

static void on_watchdog(struct ev_loop *ev, ev_timer *w, int events) { (void)sd_notify(0, "WATCHDOG=1"); }

static void on_grace(struct ev_loop *ev, ev_timer *w, int events)
{
    struct manager *m = container_of(w, struct manager, grace);

    log_info("%zu VMs have not answered yet", m->adopting);
    serve_begin(m);
}

static void start_watchers(struct manager *m)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
    struct ev_loop *ev = loop_ev(m->loop);
    uint64_t watchdog_us = 0;

    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        ev_signal_init(&m->signals[i], on_signal, signals[i]);
        m->signals[i].data = m;
        ev_signal_start(ev, &m->signals[i]);
    }
    ev_timer_init(&m->grace, on_grace, ADOPT_GRACE_MS / 1000., 0.);
    ev_init(&m->watchdog, on_watchdog);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
        /* Twice in the time given, as sd_watchdog_enabled(3) advises. */
        m->watchdog.repeat = (double)watchdog_us / 2e6;
        ev_timer_again(ev, &m->watchdog);
    }
}

static int set_up(struct manager *m, const struct manager_options *options, struct err *err)
{
    enum log_level level;
    int r;

    r = copy_dirs(m, options->dirs);
    if (r >= 0)
        r = str_set(&m->shim_path, options->shim_path);
    if (r >= 0)
        r = str_set(&m->sysfs_root, options->sysfs_root);
    if (r >= 0)
        r = boot_id_read(m->boot_id);
    if (r < 0)
        return err_from(err, r, "starting the manager");
    r = host_config_read(m->dirs.config, &m->config, err);
    if (r < 0)
        return r;
    m->log_level_given = options->log_level >= 0;
    if (options->log_level >= 0)
        log_set_level((enum log_level)options->log_level);
    else if (m->config.log_level && log_level_from_string(m->config.log_level, &level) >= 0)
        log_set_level(level);
    r = find_specs(m);
    if (r < 0)
        return err_from(err, r, "starting the manager");
    r = find_group(m, options->group, err);
    if (r >= 0)
        r = open_folders(m, err);
    if (r < 0)
        return r;
    qemu_user_warn(m->config.qemu_user);
    raise_limit(m);
    r = make_parts(m, err);
    if (r < 0)
        return r;
    start_watchers(m);
    return 0;
}

int manager_new(const struct manager_options *options, struct manager **ret_manager, struct err *err)
{
    struct manager *m = calloc(1, sizeof(*m));
    int r;

    if (!m)
        return -ENOMEM;
    m->group = (gid_t)-1;
    m->lock_fd = m->run_fd = m->run_vms_fd = m->state_fd = m->state_vms_fd = m->snapshots_fd = m->specs_fd = m->log_fd = -1;
    r = set_up(m, options, err);
    if (r < 0) {
        manager_free(m);
        return r;
    }
    *ret_manager = m;
    return 0;
}

/* ---- running ---- */

static void leftovers_removed(struct job *job) { free(job); }

struct leftovers_job {
    struct job job;
    struct manager *manager;
};

static void remove_leftovers(struct job *job) { forget_leftovers(container_of(job, struct leftovers_job, job)->manager); }

static void sweep_snapshots(struct job *job)
{
    struct manager *m = container_of(job, struct leftovers_job, job)->manager;

    warm_sweep(m);
    (void)snapshots_sweep(m->snapshots_fd, m->run_vms_fd);
}

static void begin_leftovers(struct manager *m, struct worker *worker, void (*run)(struct job *job))
{
    struct leftovers_job *leftovers = calloc(1, sizeof(*leftovers));

    if (!leftovers)
        return;
    leftovers->manager = m;
    leftovers->job.run = run;
    leftovers->job.done = leftovers_removed;
    worker_add(worker, &leftovers->job);
}

/* Names of which nothing was found in the end. */
static void sweep(struct manager *m)
{
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (!vm->has_wanted && !vm->has_spec && vm->presence == PRESENCE_GONE && vm->incarnation == 0 && !vm->unclear)
            registry_remove(vm);
    }
}

static void begin_watching(struct manager *m)
{
    /* A restart that the last manager began goes on; the next one waits for its turn. */
    map_foreach (m->vms, e) {
        const struct vm *vm = map_value(e);

        if (vm->presence == PRESENCE_SHIM && vm->wanted.wish == WANTED_RUNNING && vm->wanted.from > vm->incarnation)
            rollout_wait(m);
    }
    spec_edit_kick(m);
    watch_begin(m);
    image_updates_schedule(m);
}

void serve_begin(struct manager *m)
{
    struct err err = ERR_INIT;

    if (m->serving)
        return;
    m->serving = true;
    ev_timer_stop(loop_ev(m->loop), &m->grace);
    if (api_start(m, &err) < 0) {
        log_error("%s", err.text);
        m->stopping = true;
        loop_stop(m->loop, 1);
        return;
    }
    (void)sd_notifyf(0, "READY=1\nSTATUS=%zu VMs", map_len(m->vms));
    log_info("serving %zu VMs on %s/%s", map_len(m->vms), m->dirs.run, FILE_MANAGER_SOCKET);
    begin_leftovers(m, m->writer, remove_leftovers);
    begin_leftovers(m, m->archivist, sweep_snapshots);
    sweep(m);
    gpu_move_sweep(m);
    (void)malloc_trim(0);
    planner_check(m);
    begin_watching(m);
}

int manager_run(struct manager *m)
{
    struct err err = ERR_INIT;
    int r;

    drain_resume(m);
    r = adopt_begin(m, &err);
    if (r < 0) {
        log_error("%s", err.text);
        return r;
    }
    if (m->adopting == 0)
        serve_begin(m);
    else
        ev_timer_start(loop_ev(m->loop), &m->grace);
    if (m->stopping)
        return -EIO;
    r = loop_run(m->loop);
    return r == 0 ? 0 : -EIO;
}

/* ---- ending ---- */

/* Jobs that are out may still write a wish; a disk that has died must not keep us here. */
static void stop_workers(struct manager *m)
{
    struct worker **workers[] = { &m->reader, &m->prober, &m->archivist, &m->verifier, &m->watcher, &m->writer };

    if (!gpu_moves_stop(m, STOP_GRACE_MS)) {
        log_error("a PCI device is on its way to or from a driver: leaving without waiting for it, the next manager goes on");
        _exit(1);
    }
    for (size_t i = 0; i < ARRAY_LEN(workers); i++) {
        struct worker *w = steal_ptr(workers[i]);

        if (!w)
            continue;
        *workers[i] = w; /* what is done now may add more */
        if (!worker_stop(w, STOP_GRACE_MS)) {
            log_error("a disk doesn't answer: leaving without waiting for it");
            _exit(1);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(workers); i++)
        worker_free(steal_ptr(workers[i]));
}

void manager_free(struct manager *m)
{
    if (!m)
        return;
    m->stopping = true;
    if (m->vms) {
        map_foreach (m->vms, e) {
            launch_cancel(map_value(e));
            vm_scope_cancel(map_value(e));
        }
    }
    shim_calls_clear(m);
    long_jobs_cancel(m);
    stop_workers(m);
    warm_clear(m);
    drain_clear(m);
    follow_clear(m);
    watch_free(m->watch);
    if (m->vms)
        registry_clear(m);
    image_updates_free(m->image_updates);
    rollout_free(m->rollout);
    varlink_service_free(m->service);
    if (m->loop) {
        struct ev_loop *ev = loop_ev(m->loop);

        for (size_t i = 0; i < ARRAY_LEN(m->signals); i++)
            ev_signal_stop(ev, &m->signals[i]);
        ev_timer_stop(ev, &m->grace);
        ev_timer_stop(ev, &m->watchdog);
        spec_gone_end(m);
    }
    scopes_free(m->scopes);
    loop_free(m->loop);
    varlink_interface_free(m->manager_interface);
    varlink_interface_free(m->shim_interface);
    varlink_interface_free(m->images_interface);
    qemu_cache_free(m->qemus);
    allocations_free(m->allocations);
    gpus_free(m->gpus);
    fd_close(m->run_fd);
    fd_close(m->run_vms_fd);
    fd_close(m->state_fd);
    fd_close(m->state_vms_fd);
    fd_close(m->snapshots_fd);
    fd_close(m->specs_fd);
    fd_close(m->log_fd);
    fd_close(m->lock_fd);
    spec_folder_clear(&m->specs);
    free(m->specs_lost);
    free(m->specs_empty);
    while (m->old_configs) {
        struct host_config *old = m->old_configs;

        m->old_configs = old->older;
        host_config_clear(old);
        free(old);
    }
    host_config_clear(&m->config);
    dirs_clear(&m->dirs);
    free(m->specs_dir);
    free(m->shim_path);
    free(m->sysfs_root);
    free(m->scope_problem);
    free(m);
}
