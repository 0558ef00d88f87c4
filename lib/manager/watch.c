#include "lib/manager/watch.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/reload.h"
#include "lib/manager/spec_sync.h"
#include "lib/manager/state.h"
#include "lib/manager/watch_set.h"

enum {
    SETTLE_MS = 20,   /* from the first event to the look: one save is several of them, and so are many files at once */
    BEGUN_MS = 1000,  /* the same when all that is known is that a file was made */
    RESCAN_MS = 5000, /* between looks where inotify doesn't tell everything */
    AGAIN_MS = 1000,  /* after a look that failed for lack of memory */
};

struct watch {
    struct manager *manager;
    struct watch_set *set; /* NULL: none could be made */
    ev_io io;
    ev_timer settle; /* the next look */
    ev_timer poll;
    unsigned due;        /* bits of enum watch_what that the next look is for */
    unsigned held;       /* writes of our own that are under way */
    unsigned generation; /* of them: a look that one of them came into is worth nothing */
    bool begun, looking, said_poll;
};

/* A look, by a thread. */
struct look {
    struct job job;
    struct watch *watch;
    unsigned due, generation;
    char *specs_dir, *config_dir;     /* copies */
    const struct spec_folder *before; /* the loop changes it only when no look is under way */
    /* found */
    int specs_fd; /* a new one, when the paths were followed anew; -1: as it was, or none */
    int old_fd;   /* the one there is */
    bool followed;
    struct watch_set *set;
    struct spec_folder folder;
    int r;
    struct err err;
};

static void look_free(struct look *l)
{
    fd_close(l->specs_fd);
    watch_set_free(l->set);
    spec_folder_clear(&l->folder);
    free(l->specs_dir);
    free(l->config_dir);
    free(l);
}

static int watch_config(struct look *l)
{
    int r = 0;

    for (const char *const *file = host_config_files; *file && r >= 0; file++) {
        auto_free char *path = NULL;

        r = str_format(&path, "%s/%s", l->config_dir, *file);
        if (r >= 0)
            r = watch_set_add_path(l->set, path, WATCH_CONFIG);
    }
    return r;
}

/* A new set: first the watches, then the look, so that nothing happens unseen in between. */
static int follow_paths(struct look *l)
{
    int r = watch_set_new(&l->set);

    l->followed = true;
    if (r == -ENOMEM)
        return r;
    if (l->set) {
        r = watch_config(l);
        if (r >= 0)
            r = watch_set_add_path(l->set, l->specs_dir, WATCH_PATHS | WATCH_SPECS);
        if (r < 0)
            return r;
    }
    l->specs_fd = open(l->specs_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (l->specs_fd < 0)
        return err_set_errno(&l->err, errno, "no-specs", "the folder of specs %s", l->specs_dir);
    return l->set ? watch_set_add_folder(l->set, l->specs_fd) : 0;
}

static bool has_links(const struct spec_folder *folder)
{
    for (size_t i = 0; folder && i < folder->n; i++) {
        if (folder->items[i].link)
            return true;
    }
    return false;
}

/* The paths followed anew, the folder, and what its links lead to. */
static int look_anew(struct look *l)
{
    auto_spec_folder struct spec_folder first = { 0 };
    int r = follow_paths(l);

    l->due |= WATCH_PATHS;
    if (r >= 0)
        r = spec_folder_scan(l->specs_fd, l->before, &first, &l->err);
    if (r >= 0 && l->set && has_links(&first))
        r = watch_set_add_links(l->set, l->specs_dir, &first);
    /* Once more, now that they are watched. */
    return r < 0 ? r : spec_folder_scan(l->specs_fd, l->before, &l->folder, &l->err);
}

static int look_at(struct look *l)
{
    int r;

    if (l->due & WATCH_PATHS)
        return look_anew(l);
    r = spec_folder_scan(l->old_fd, l->before, &l->folder, &l->err);
    if (r < 0 || !(has_links(&l->folder) || has_links(l->before)))
        return r;
    /* Where they lead to may be another place now. */
    spec_folder_clear(&l->folder);
    return look_anew(l);
}

static void run(struct job *job)
{
    struct look *l = container_of(job, struct look, job);

    l->r = look_at(l);
    if (l->r < 0 && l->r != -ENOMEM)
        err_from(&l->err, l->r, "the folder of specs");
}

static void begin_look(struct watch *w);

static void schedule(struct watch *w, unsigned due, uint64_t ms)
{
    struct ev_loop *ev = loop_ev(w->manager->loop);

    w->due |= due;
    if (!w->begun)
        return;
    ev_now_update(ev);
    /* The first event of a burst sets the time: a later one doesn't put it off. */
    if (ev_is_active(&w->settle) && ev_timer_remaining(ev, &w->settle) <= (double)ms / 1000.)
        return;
    ev_timer_stop(ev, &w->settle);
    ev_timer_set(&w->settle, (double)ms / 1000., 0.);
    ev_timer_start(ev, &w->settle);
}

static void on_event(struct ev_loop *ev, ev_io *io, int events)
{
    struct watch *w = container_of(io, struct watch, io);
    unsigned what = watch_set_read(w->set);

    if (what & ~(unsigned)WATCH_BEGUN)
        schedule(w, what & ~(unsigned)WATCH_BEGUN, SETTLE_MS);
    else if (what)
        schedule(w, WATCH_SPECS, BEGUN_MS);
}

static void on_settle(struct ev_loop *ev, ev_timer *timer, int events) { begin_look(container_of(timer, struct watch, settle)); }

static void on_poll(struct ev_loop *ev, ev_timer *timer, int events)
{
    schedule(container_of(timer, struct watch, poll), WATCH_SPECS | WATCH_PATHS | WATCH_CONFIG, 0);
}

static void adopt_set(struct watch *w, struct look *l)
{
    struct ev_loop *ev = loop_ev(w->manager->loop);

    ev_io_stop(ev, &w->io);
    watch_set_free(w->set);
    w->set = steal_ptr(&l->set);
    if (!w->set)
        return;
    ev_io_set(&w->io, watch_set_fd(w->set), EV_READ);
    ev_io_start(ev, &w->io);
}

/* Looks come by themselves where nobody tells of changes, and while the folder isn't there: a mount has no event. */
static void set_poll(struct watch *w)
{
    struct ev_loop *ev = loop_ev(w->manager->loop);
    bool blind = !w->set || watch_set_is_incomplete(w->set);

    if (blind && !w->said_poll)
        log_warning("changes of %s are not told by the kernel (%s): it is looked at every %d s", w->manager->specs_dir,
                    w->set ? "its file system or the limits of inotify" : "no inotify", RESCAN_MS / 1000);
    w->said_poll = blind;
    if (!blind && !spec_sync_is_lost(w->manager)) {
        ev_timer_stop(ev, &w->poll);
    } else if (!ev_is_active(&w->poll)) {
        ev_timer_set(&w->poll, RESCAN_MS / 1000., RESCAN_MS / 1000.);
        ev_timer_start(ev, &w->poll);
    }
}

static void take(struct watch *w, struct look *l)
{
    struct manager *m = w->manager;

    if (l->followed)
        adopt_set(w, l);
    /* In place, since threads use it by its number. One that is gone stays open: its specs are what is known. */
    if (l->specs_fd >= 0 && dup3(l->specs_fd, m->specs_fd, O_CLOEXEC) < 0)
        log_error("can't take over the folder of specs: %s", strerror(errno));
    if (l->r < 0)
        spec_sync_lost(m, l->err.text, l->specs_fd < 0);
    else if (l->followed && spec_sync_is_suspicious(m, &l->folder))
        spec_sync_lost(m, "the folder of specs is empty, and not the one that had them", false);
    else
        spec_sync_take(m, &l->folder);
    /* Now that it is watched: what is written from here on has an event of its own. */
    if (l->due & WATCH_CONFIG)
        reload_begin(m);
    set_poll(w);
}

static void done(struct job *job)
{
    struct look *l = container_of(job, struct look, job);
    struct watch *w = l->watch;

    w->looking = false;
    if (w->manager->stopping) {
        /* the next manager looks */
    } else if (l->generation != w->generation || w->held) {
        w->due |= l->due | WATCH_SPECS;
        if (!w->held)
            begin_look(w);
    } else if (l->r == -ENOMEM) {
        schedule(w, l->due | WATCH_PATHS, AGAIN_MS);
    } else {
        take(w, l);
    }
    look_free(l);
}

static void begin_look(struct watch *w)
{
    struct manager *m = w->manager;
    struct look *l;

    ev_timer_stop(loop_ev(m->loop), &w->settle);
    if (w->held || m->stopping)
        return;
    if (w->looking) { /* it began before what this one is for */
        schedule(w, 0, SETTLE_MS);
        return;
    }
    l = calloc(1, sizeof(*l));
    if (!l || str_set(&l->specs_dir, m->specs_dir) < 0 || str_set(&l->config_dir, m->dirs.config) < 0) {
        if (l) {
            l->specs_fd = -1;
            look_free(l);
        }
        schedule(w, WATCH_PATHS, AGAIN_MS);
        return;
    }
    l->watch = w;
    l->due = w->due | (spec_sync_is_lost(m) ? WATCH_PATHS : 0);
    l->generation = w->generation;
    l->specs_fd = -1;
    l->old_fd = m->specs_fd;
    l->before = spec_sync_folder(m);
    l->job.run = run;
    l->job.done = done;
    w->due = 0;
    w->looking = true;
    worker_add(m->watcher, &l->job);
}

int watch_new(struct manager *m)
{
    struct watch *w = calloc(1, sizeof(*w));

    if (!w)
        return -ENOMEM;
    w->manager = m;
    ev_init(&w->io, on_event);
    ev_init(&w->settle, on_settle);
    ev_init(&w->poll, on_poll);
    m->watch = w;
    return 0;
}

void watch_begin(struct manager *m)
{
    m->watch->begun = true;
    schedule(m->watch, WATCH_PATHS | WATCH_SPECS | WATCH_CONFIG, 0);
}

void watch_free(struct watch *w)
{
    struct ev_loop *ev;

    if (!w)
        return;
    ev = loop_ev(w->manager->loop);
    ev_io_stop(ev, &w->io);
    ev_timer_stop(ev, &w->settle);
    ev_timer_stop(ev, &w->poll);
    watch_set_free(w->set);
    free(w);
}

void watch_kick(struct manager *m) { schedule(m->watch, WATCH_SPECS | WATCH_PATHS | WATCH_CONFIG, 0); }

void watch_hold(struct manager *m)
{
    m->watch->held++;
    m->watch->generation++;
}

void watch_release(struct manager *m)
{
    if (--m->watch->held == 0 && m->watch->due)
        schedule(m->watch, 0, SETTLE_MS);
}
