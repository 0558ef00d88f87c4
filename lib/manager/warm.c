#include "lib/manager/warm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/socket.h"
#include "lib/manager/allocations.h"
#include "lib/manager/api.h"
#include "lib/manager/forget.h"
#include "lib/manager/plan_restore.h"
#include "lib/manager/planner.h"
#include "lib/manager/restore_spec.h"
#include "lib/manager/shim_spawn.h"
#include "lib/manager/snapshot_task.h"
#include "lib/manager/state.h"
#include "lib/varlink/peer.h"

#define NAME_PREFIX "warm-"

enum {
    ID_LEN = 16, /* of the snapshot's: enough to tell them apart */
    WARM_PATH_MAX = 64,
    QEMU_DIES_TRIES = 100,
    QEMU_DIES_US = 20 * 1000,
};

struct warm {
    struct job job;
    struct manager *manager;
    struct answer answer;
    struct warm *next, **prev_next;
    char *vm, *name;   /* of the snapshot */
    struct vm *hidden; /* of nobody's name, and in no registry: what a plan is made for */
    json_t *spec;
    bool warm; /* its working set is known */
    int sync_fd;
    ev_io io;
    ev_timer deadline;
    char said[ERR_TEXT_MAX]; /* by the shim instead of ready; then by its events, the last of them */
    size_t len;
    struct varlink_peer *peer;
    struct pidref process;
    struct pidwatch watch;
    struct snapshot_info info;
    int r;
    struct err err;
};

static void warm_free(struct warm *w)
{
    struct ev_loop *ev = loop_ev(w->manager->loop);

    if (w->prev_next)
        *w->prev_next = w->next;
    if (w->next)
        w->next->prev_next = w->prev_next;
    ev_io_stop(ev, &w->io);
    ev_timer_stop(ev, &w->deadline);
    fd_close(w->sync_fd);
    varlink_peer_free(w->peer);
    pidwatch_stop(&w->watch);
    pidref_done(&w->process);
    if (w->hidden)
        vm_unref(w->hidden);
    json_decref(w->spec);
    snapshot_info_clear(&w->info);
    free(w->vm);
    free(w->name);
    free(w);
}

void warm_clear(struct manager *m)
{
    while (m->warms)
        warm_free(m->warms);
}

static void fail_and_free(struct warm *w)
{
    struct varlink_call *call = w->answer.call;

    if (!call)
        ; /* gone */
    else if (w->r == -ENOENT && !*w->err.id)
        api_no_such_snapshot(call, w->vm, w->name);
    else if (w->r == -ENOMEM)
        api_fail_memory(call);
    else if (streq(w->err.id, "refused") || streq(w->err.id, "damaged") || streq(w->err.id, "other-hardware"))
        api_refuse(call, w->vm, "%s", w->err.text);
    else
        api_fail(call, w->vm, *w->err.id ? w->err.id : "warm", NULL, "%s/%s can't be warmed: %s", w->vm, w->name,
                 *w->err.text ? w->err.text : strerror(-w->r));
    warm_free(w);
}

/* ---- folders ---- */

static const char *warm_path(const char *id, const char *file, char buf[WARM_PATH_MAX])
{
    snprintf(buf, WARM_PATH_MAX, FOLDER_WARM "/%.*s%s%s", ID_LEN, id, file ? "/" : "", file ? file : "");
    return buf;
}

bool warm_is_running(const struct manager *m, const char *snapshot_id)
{
    char path[WARM_PATH_MAX];

    return lock_is_held(m->run_fd, warm_path(snapshot_id, FILE_SHIM_LOCK, path)) > 0;
}

void warm_sweep(const struct manager *m)
{
    int fd = dir_open(m->run_fd, FOLDER_WARM);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir) {
        fd_close(fd);
        return;
    }
    while ((entry = readdir(dir))) {
        char name[NAME_MAX_LEN + sizeof(NAME_PREFIX)];
        int r = name_is_valid(entry->d_name) ? run_folder_remove(dirfd(dir), entry->d_name) : 0;

        if (r == -EBUSY) {
            log_info("a snapshot is being warmed in %s/%s", FOLDER_WARM, entry->d_name);
        } else if (name_is_valid(entry->d_name)) {
            snprintf(name, sizeof(name), NAME_PREFIX "%.*s", NAME_MAX_LEN, entry->d_name);
            allocations_drop(m->allocations, name);
        }
    }
    closedir(dir);
    (void)allocations_commit(m->allocations); /* else with the next that is given */
}

/* ---- first: is there anything to warm? ---- */

static int prepare_folder(struct warm *w)
{
    const struct manager *m = w->manager;
    auto_free char *path = NULL;
    char id[ID_LEN + 1];
    auto_fd int fd = -1;
    int r;

    r = str_format(&path, "%s/" FOLDER_WARM, m->dirs.run);
    if (r >= 0)
        r = dir_make(path, FOLDER_MODE, &w->err);
    if (r < 0)
        return r;
    fd = dir_open(m->run_fd, FOLDER_WARM);
    snprintf(id, sizeof(id), "%s", w->info.found.id);
    r = fd < 0 ? fd : run_folder_remove(fd, id);
    if (r == -EBUSY)
        return err_set(&w->err, EBUSY, "refused", "%s/%s is being warmed already", w->vm, w->name);
    return r < 0 ? err_set_errno(&w->err, -r, "no-folder", "%s/%s", path, id) : 0;
}

static bool is_warm(const struct warm *w)
{
    auto_fd int fd = snapshots_open(w->manager->snapshots_fd, w->vm, w->name);
    auto_working_set struct working_set set = { 0 };
    struct err err = ERR_INIT;

    return fd >= 0 && snapshot_read_working_set(fd, &w->info.found, &set, &err) >= 0;
}

static int look(struct warm *w)
{
    auto_json json_t *from = NULL;
    char name[NAME_MAX_LEN];
    int r;

    r = snapshots_read(w->manager->snapshots_fd, w->vm, w->name, &w->info);
    if (r < 0)
        return r;
    if (w->info.damaged)
        return err_set(&w->err, EINVAL, "damaged", "snapshot %s/%s is damaged: %s", w->vm, w->name, w->info.damaged);
    if (plan_restore_mode(RESTORE_LAZY) != RESTORE_LAZY)
        return err_set(&w->err, EOPNOTSUPP, "refused", "warming means serving memory page by page, which HOLDFAST_UFFD=0 has turned off");
    if (!w->info.found.spec)
        return err_set(&w->err, EINVAL, "refused",
                       "snapshot %s/%s has no spec in it, so no VM can be made of it: restore it as a VM that has one", w->vm, w->name);
    w->warm = is_warm(w);
    if (w->warm)
        return 0;
    snprintf(name, sizeof(name), NAME_PREFIX "%.*s", ID_LEN, w->info.found.id);
    r = json_parse(w->info.found.spec, strlen(w->info.found.spec), &from, &w->err);
    if (r >= 0)
        r = restore_spec_make_hidden(from, name, &w->spec);
    return r < 0 ? r : prepare_folder(w);
}

static void look_run(struct job *job)
{
    struct warm *w = container_of(job, struct warm, job);

    w->r = look(w);
}

/* ---- last: what came of it ---- */

/* A shim that was killed could not remove its folder; its QEMU is being killed by the kernel. */
static void remove_rest(const struct warm *w)
{
    auto_fd int fd = dir_open(w->manager->run_fd, FOLDER_WARM);
    char id[ID_LEN + 1];
    int r = fd < 0 ? fd : -EBUSY;

    allocations_drop(w->manager->allocations, w->hidden->name);
    (void)allocations_commit(w->manager->allocations); /* else with the next that is given */
    snprintf(id, sizeof(id), "%s", w->info.found.id);
    for (int i = 0; i < QEMU_DIES_TRIES && r == -EBUSY; i++) {
        r = run_folder_remove(fd, id);
        if (r == -EBUSY)
            (void)usleep(QEMU_DIES_US);
    }
    if (r < 0 && r != -ENOENT)
        log_warning("can't remove %s/" FOLDER_WARM "/%s: %s", w->manager->dirs.run, id, strerror(-r));
}

static void ended_run(struct job *job)
{
    struct warm *w = container_of(job, struct warm, job);

    remove_rest(w);
    snapshot_info_clear(&w->info);
    w->r = snapshots_read(w->manager->snapshots_fd, w->vm, w->name, &w->info);
    if (w->r < 0)
        return;
    if (!is_warm(w))
        w->r = err_set(&w->err, EIO, "warm", "its shim ended before the guest had settled%s%s", *w->said ? "; the last it said: " : "",
                       w->said);
}

static void succeed_and_free(struct warm *w)
{
    if (w->answer.call)
        varlink_call_reply_consume(w->answer.call, json_pack("{s:o}", "snapshot", snapshot_to_wire_consume(&w->info, json_array())));
    warm_free(w);
}

static void ended(struct job *job)
{
    struct warm *w = container_of(job, struct warm, job);

    if (w->r < 0) {
        fail_and_free(w);
        return;
    }
    log_vm_info(w->vm, "snapshot %s is warm", w->name);
    succeed_and_free(w);
}

/* ---- between: the shim ---- */

static void on_exited(struct pidwatch *watch)
{
    struct warm *w = watch->arg;

    pidwatch_stop(&w->watch);
    w->job.run = ended_run;
    w->job.done = ended;
    worker_add(w->manager->archivist, &w->job);
}

static void on_monitor(void *arg, const struct varlink_reply *r)
{
    struct warm *w = arg;
    const char *text = json_string_value(json_object_get(json_object_get(r->parameters, "event"), "text"));

    if (r->failure < 0 || r->error || !text)
        return; /* its end is told by its process */
    snprintf(w->said, sizeof(w->said), "%s", text);
    if (w->answer.call)
        task_tell_progress(w->answer.call, text, 0, 0);
}

static void on_closed(void *arg, int error) {}

static int follow(struct warm *w)
{
    struct manager *m = w->manager;
    struct socket_peer peer;
    char path[WARM_PATH_MAX];
    auto_fd int fd = socket_connect(m->run_fd, warm_path(w->info.found.id, FILE_SHIM_SOCKET, path));
    int r = fd < 0 ? fd : socket_peer(fd, &peer);

    if (r >= 0)
        r = pidref_open(peer.pid, &w->process);
    if (r >= 0)
        r = varlink_peer_new_take(m->loop, fd, m->shim_interface, on_closed, w, &w->peer);
    if (r < 0)
        return r;
    steal_fd(&fd);
    r = varlink_peer_call_consume(w->peer, "Monitor", NULL, VARLINK_MORE, 0, on_monitor, w);
    if (r < 0)
        return r;
    pidwatch_start(&w->watch, m->loop, &w->process, on_exited, w);
    return 0;
}

static void abandoned_run(struct job *job) { remove_rest(container_of(job, struct warm, job)); }

static void abandoned(struct job *job) { fail_and_free(container_of(job, struct warm, job)); }

/* A shim that isn't told to go ends; it, or one that ended already, may have left its folder. w->r and w->err say why. */
static void abandon(struct warm *w)
{
    struct ev_loop *ev = loop_ev(w->manager->loop);

    ev_io_stop(ev, &w->io);
    ev_timer_stop(ev, &w->deadline);
    pidwatch_stop(&w->watch);
    w->sync_fd = fd_close(w->sync_fd);
    w->job.run = abandoned_run;
    w->job.done = abandoned;
    worker_add(w->manager->archivist, &w->job);
}

/* It is ready. Only once its end can be noticed is it told to go. */
static void say_go(struct warm *w)
{
    static const char go = LAUNCH_GO;
    struct ev_loop *ev = loop_ev(w->manager->loop);

    ev_io_stop(ev, &w->io);
    ev_timer_stop(ev, &w->deadline);
    w->said[0] = '\0';
    w->r = follow(w);
    if (w->r >= 0 && send(w->sync_fd, &go, 1, MSG_NOSIGNAL) != 1)
        w->r = -EPIPE;
    if (w->r < 0) {
        err_set_errno(&w->err, -w->r, "lost", "its shim ended before it was told to go");
        abandon(w);
        return;
    }
    w->sync_fd = fd_close(w->sync_fd);
}

static void on_sync(struct ev_loop *ev, ev_io *io, int events)
{
    struct warm *w = container_of(io, struct warm, io);
    ssize_t n = read(w->sync_fd, w->said + w->len, sizeof(w->said) - 1 - w->len);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    w->len += n > 0 ? (size_t)n : 0;
    w->said[w->len] = '\0';
    if (w->len == 1 && w->said[0] == LAUNCH_READY) {
        say_go(w);
        return;
    }
    if (n > 0 && w->len < sizeof(w->said) - 1)
        return;
    w->said[strcspn(w->said, "\n")] = '\0';
    w->r = err_set(&w->err, EIO, "launch", "%s", *w->said ? w->said : "its shim ended before it was ready and didn't say why");
    abandon(w);
}

static void on_deadline(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct warm *w = container_of(timer, struct warm, deadline);

    w->r = err_set(&w->err, ETIMEDOUT, "launch", "its shim was not ready in time");
    abandon(w);
}

static int spawn(struct warm *w, int plan_fd)
{
    struct manager *m = w->manager;
    struct ev_loop *ev = loop_ev(m->loop);
    char path[WARM_PATH_MAX];
    auto_fd int theirs = -1, log_folder = openat(m->run_fd, warm_path(w->info.found.id, "log", path), O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    w->sync_fd = pair[0];
    theirs = pair[1];
    r = fd_set_nonblock(w->sync_fd, true);
    if (r >= 0)
        r = shim_spawn(m,
                       &(struct shim_spawn){ .name = w->hidden->name, .plan_fd = plan_fd, .sync_fd = theirs, .log_folder_fd = log_folder });
    if (r < 0)
        return r;
    ev_io_init(&w->io, on_sync, w->sync_fd, EV_READ);
    ev_io_start(ev, &w->io);
    ev_now_update(ev);
    ev_timer_set(&w->deadline, LAUNCH_READY_TIMEOUT_MS / 1000., 0.);
    ev_timer_start(ev, &w->deadline);
    return 0;
}

static void planned(struct plan_request *p)
{
    struct warm *w = p->arg;

    w->r = p->r;
    w->err = p->err;
    if (w->r >= 0 && !w->manager->stopping)
        w->r = spawn(w, p->plan_fd);
    else if (w->r >= 0)
        w->r = -ECANCELED;
    plan_request_free(p);
    if (w->r < 0)
        fail_and_free(w);
}

static int begin_plan(struct warm *w)
{
    const struct manager *m = w->manager;
    struct plan_request *p;
    char name[NAME_MAX_LEN];

    snprintf(name, sizeof(name), NAME_PREFIX "%.*s", ID_LEN, w->info.found.id);
    if (vm_new(w->manager, name, &w->hidden) < 0)
        return -ENOMEM;
    p = plan_request_new(w->hidden, PLAN_LAUNCH, planned, w);
    if (!p)
        return -ENOMEM;
    p->given = json_incref(w->spec);
    p->ephemeral = true;
    if (str_set(&p->restore.vm, w->vm) < 0 || str_set(&p->restore.snapshot, w->name) < 0 ||
        str_format(&p->place.run, "%s/" FOLDER_WARM "/%.*s", m->dirs.run, ID_LEN, w->info.found.id) < 0 ||
        str_format(&p->place.state, "%s/state", p->place.run) < 0 || str_format(&p->place.log, "%s/log", p->place.run) < 0) {
        plan_request_free(p);
        return -ENOMEM;
    }
    p->restore.mode = RESTORE_LAZY;
    plan_request_begin(p);
    return 0;
}

static void looked(struct job *job)
{
    struct warm *w = container_of(job, struct warm, job);

    if (w->r >= 0 && w->warm) {
        succeed_and_free(w);
        return;
    }
    if (w->r >= 0)
        w->r = begin_plan(w);
    if (w->r < 0)
        fail_and_free(w);
}

void api_snapshot_warm(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    const char *vm = json_string_value(json_object_get(parameters, "vm")),
               *name = json_string_value(json_object_get(parameters, "snapshot"));
    struct warm *w = calloc(1, sizeof(*w));

    if (w) {
        w->manager = m;
        w->sync_fd = -1;
        w->process = PIDREF_NONE;
        ev_init(&w->io, on_sync);
        ev_init(&w->deadline, on_deadline);
    }
    if (!w || str_set(&w->vm, vm) < 0 || str_set(&w->name, name) < 0) {
        if (w)
            warm_free(w);
        api_fail_memory(call);
        return;
    }
    w->next = m->warms;
    w->prev_next = &m->warms;
    if (w->next)
        w->next->prev_next = &w->next;
    m->warms = w;
    w->job.run = look_run;
    w->job.done = looked;
    answer_bind(&w->answer, call);
    worker_add(m->archivist, &w->job);
}
