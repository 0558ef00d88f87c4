#include "lib/images/service.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/images/api.h"
#include "lib/images/http.h"
#include "lib/images/pull.h"
#include "lib/images/remove.h"
#include "proto/interfaces.h"

enum {
    FOLDER_MODE = 0755,
    LOOK_THREADS = 3,
    STOP_GRACE_MS = 3000,
    LOCK_GRACE_MS = 1000, /* for a killed predecessor to be gone */
    LOCK_RETRY_MS = 5,
    GROUP_BUFFER = 64 * 1024, /* its members are in it, too */
};

static const char default_group[] = "holdfast";

/* ---- making ---- */

static int take_lock(int dirfd, const char *folder, const char *file, int *ret_fd, struct err *err)
{
    uint64_t until = clock_mono_us() + (uint64_t)LOCK_GRACE_MS * 1000;
    int fd;

    while ((fd = lock_take(dirfd, file)) == -EWOULDBLOCK && clock_mono_us() < until)
        (void)poll(NULL, 0, LOCK_RETRY_MS);
    if (fd == -EWOULDBLOCK)
        return err_set(err, EWOULDBLOCK, "locked", "another holdfast-imaged holds %s/%s: stop that one first", folder, file);
    if (fd < 0)
        return err_set_errno(err, -fd, "no-lock", "can't lock %s/%s", folder, file);
    *ret_fd = fd;
    return 0;
}

static int open_folders(struct images_service *s, struct err *err)
{
    int r = dir_make(s->dirs.run, FOLDER_MODE, err);

    if (r < 0)
        return r;
    s->run_fd = dir_open(AT_FDCWD, s->dirs.run);
    if (s->run_fd < 0)
        return err_set_errno(err, -s->run_fd, "no-folder", "can't open %s", s->dirs.run);
    r = take_lock(s->run_fd, s->dirs.run, FILE_IMAGES_LOCK, &s->lock_fd, err);
    if (r >= 0)
        r = image_store_open(s->dirs.state, &s->store, err);
    /* The store's own: two services with two run folders mustn't both fill it. */
    return r < 0 ? r : take_lock(s->store.fd, s->store.path, FILE_STORE_LOCK, &s->store_lock_fd, err);
}

static int find_group(struct images_service *s, const char *wanted, const char *configured, struct err *err)
{
    const char *name = wanted ? wanted : configured ? configured : default_group;
    char buf[GROUP_BUFFER];
    struct group group, *g = NULL;

    (void)getgrnam_r(name, &group, buf, sizeof(buf), &g);
    s->group = g ? g->gr_gid : (gid_t)-1;
    if (!g && (wanted || configured))
        return err_set(err, ENOENT, "no-group", "there is no group \"%s\" on this host", name);
    /* Only root can give files to just any group; another user manages alone. */
    if (geteuid() != 0 && !wanted && !configured)
        s->group = (gid_t)-1;
    return 0;
}

/* A mistake in the config is no reason not to serve what is here; whoever needs a source is told. */
static int read_group(struct images_service *s, const char *wanted, struct err *err)
{
    auto_images_config struct images_config config = { 0 };
    auto_free char *group = NULL;
    struct err problem = ERR_INIT;

    if (images_config_read(s->dirs.config, &config, &group, &problem) < 0)
        log_error("%s", problem.text);
    for (size_t i = 0; i < config.sources.n; i++) {
        const struct image_source *source = &config.sources.items[i];

        if (!source->public_key && ((source->url && has_prefix(source->url, "http://"))))
            log_warning("the source of %s is asked by http:// and has no public_key: whoever is on the way may change its manifests",
                        source->name);
    }
    return find_group(s, wanted, group, err);
}

static void on_signal(struct ev_loop *ev, ev_signal *w, int events)
{
    struct images_service *s = w->data;

    log_info("%s: leaving; pulls under way are gone on with at the next start", strsignal(w->signum));
    (void)sd_notify(0, "STOPPING=1");
    s->stopping = true;
    loop_stop(s->loop, 0);
}

static int make_parts(struct images_service *s, struct err *err)
{
    static const int signals[] = { SIGTERM, SIGINT, SIGHUP };
    int r = http_init();

    if (r >= 0)
        r = varlink_interface_parse(images_interface_text, &s->interface, err);
    if (r >= 0)
        r = loop_new(&s->loop);
    if (r >= 0)
        r = worker_new(s->loop, LOOK_THREADS, &s->worker);
    if (r >= 0)
        r = activities_start(s);
    if (r < 0)
        return err_from(err, r, "starting the image service");
    for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
        ev_signal_init(&s->signals[i], on_signal, signals[i]);
        s->signals[i].data = s;
        ev_signal_start(loop_ev(s->loop), &s->signals[i]);
    }
    return 0;
}

static int set_up(struct images_service *s, const struct images_service_options *options, struct err *err)
{
    const struct dirs *dirs = options->dirs;
    int r;

    if (str_set(&s->dirs.run, dirs->run) < 0 || str_set(&s->dirs.state, dirs->state) < 0 || str_set(&s->dirs.log, dirs->log) < 0 ||
        str_set(&s->dirs.config, dirs->config) < 0)
        return -ENOMEM;
    r = read_group(s, options->group, err);
    if (r >= 0)
        r = open_folders(s, err);
    return r < 0 ? r : make_parts(s, err);
}

int images_service_new(const struct images_service_options *options, struct images_service **ret_service, struct err *err)
{
    auto_images_service struct images_service *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->run_fd = s->lock_fd = s->store_lock_fd = -1;
    s->store = IMAGE_STORE_NONE;
    pthread_mutex_init(&s->limiter.mutex, NULL);
    pthread_mutex_init(&s->newest_mutex, NULL);
    pthread_mutex_init(&s->finished_mutex, NULL);
    r = set_up(s, options, err);
    if (r < 0)
        return r;
    *ret_service = steal_ptr(&s);
    return 0;
}

/* ---- running ---- */

struct resume {
    struct job job;
    struct images_service *service;
    struct image_partials partials;
};

static void resume_run(struct job *job)
{
    struct resume *resume = container_of(job, struct resume, job);

    image_sweep(&resume->service->store);
    (void)image_partials_list(&resume->service->store, NULL, &resume->partials);
}

/* What was under way when the last service ended. */
static void resume_done(struct job *job)
{
    struct resume *resume = container_of(job, struct resume, job);
    struct images_service *s = resume->service;

    for (size_t i = 0; i < resume->partials.n && !s->stopping; i++) {
        const struct image_partial *p = &resume->partials.items[i];
        struct activity *a;
        struct err err = ERR_INIT;

        if (p->problem || activity_find(s, ACTIVITY_PULL, p->name, p->version))
            continue;
        if (activity_begin(s, ACTIVITY_PULL, p->name, p->version, NULL, &a, &err) < 0)
            log_warning("can't go on with the pull of image %s/%s: %s", p->name, p->version, err.text);
    }
    image_partials_clear(&resume->partials);
    free(resume);
}

static int begin_resume(struct images_service *s)
{
    struct resume *resume = calloc(1, sizeof(*resume));

    if (!resume)
        return -ENOMEM;
    resume->service = s;
    resume->job.run = resume_run;
    resume->job.done = resume_done;
    worker_add(s->worker, &resume->job);
    return 0;
}

int images_service_run(struct images_service *s)
{
    struct err err = ERR_INIT;
    int r = begin_resume(s);

    if (r >= 0)
        r = api_start(s, &err);
    if (r < 0) {
        (void)err_from(&err, r, "can't start");
        log_error("%s", err.text);
        return r;
    }
    (void)sd_notify(0, "READY=1");
    log_info("serving the images of %s on %s/%s", s->store.path, s->dirs.run, FILE_IMAGES_SOCKET);
    return loop_run(s->loop);
}

/* ---- ending ---- */

void images_service_free(struct images_service *s)
{
    if (!s)
        return;
    s->stopping = true;
    /* First, so that nothing new comes; what is under way has lost its callers then. */
    varlink_service_free(s->service);
    if (s->worker && !worker_stop(s->worker, STOP_GRACE_MS)) {
        log_error("a disk doesn't answer: leaving without waiting for it");
        _exit(1);
    }
    worker_free(s->worker);
    /* Nothing is lost by it: what has come is on the disk, and is looked at anew. */
    if (s->loop && !activities_stop(s, STOP_GRACE_MS)) {
        log_warning("a transfer doesn't end: leaving without waiting for it");
        _exit(0);
    }
    for (size_t i = 0; s->loop && i < ARRAY_LEN(s->signals); i++)
        ev_signal_stop(loop_ev(s->loop), &s->signals[i]);
    loop_free(s->loop);
    varlink_interface_free(s->interface);
    image_store_close(&s->store);
    fd_close(s->store_lock_fd);
    fd_close(s->lock_fd);
    fd_close(s->run_fd);
    dirs_clear(&s->dirs);
    pthread_mutex_destroy(&s->limiter.mutex);
    pthread_mutex_destroy(&s->newest_mutex);
    pthread_mutex_destroy(&s->finished_mutex);
    free(s);
}
