#include "lib/manager/image_update.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/manager/image_pull.h"
#include "lib/manager/planner.h"
#include "lib/manager/rollout.h"
#include "lib/manager/state.h"

struct update {
    struct update *next;
    struct image_updates *owner;
    char *image;
    struct image_pull *pull;
};

struct image_updates {
    struct manager *manager;
    ev_periodic at;
    struct update *running; /* one for each image */
};

time_t image_update_next(time_t now, unsigned minute)
{
    time_t at = now;
    struct tm tm;

    for (int days = 0; at <= now && days < 3; days++) {
        if (!localtime_r(&now, &tm))
            return now + 24 * 60 * 60;
        tm.tm_mday += days;
        tm.tm_hour = (int)(minute / 60);
        tm.tm_min = (int)(minute % 60);
        tm.tm_sec = 0;
        tm.tm_isdst = -1; /* whatever is in force by then */
        at = mktime(&tm);
    }
    return at > now ? at : now + 24 * 60 * 60;
}

static ev_tstamp reschedule(ev_periodic *w, ev_tstamp now)
{
    const struct image_updates *u = container_of(w, struct image_updates, at);

    return (ev_tstamp)image_update_next((time_t)now, (unsigned)u->manager->config.image_update.minute);
}

static bool follows(const struct vm *vm, const char *image)
{
    int policy = vm->image_update == IMAGE_UPDATE_DEFAULT ? vm->manager->config.image_update.policy : vm->image_update;

    return policy == IMAGE_UPDATE_AUTO && streq_opt(vm->image, image);
}

/* ---- the release is here: who runs with an older one? ---- */

static void planned(struct plan_request *p)
{
    struct vm *vm = p->vm;

    if (p->r >= 0 && p->image_newer && !vm->gone_from_registry && !vm->manager->stopping) {
        log_vm_info(vm->name, "image %s %s is newer than what it runs with", p->image_name, p->image_version);
        rollout_add(vm, ROLLOUT_IMAGE);
    }
    plan_request_free(p);
}

static void restart_followers(struct manager *m, const char *image)
{
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (vm->presence == PRESENCE_SHIM && follows(vm, image) && plan_request(vm, 0, planned, NULL) < 0)
            log_vm_error(vm->name, "out of memory: its image is not updated");
    }
}

/* ---- getting it ---- */

static void update_free(struct update *up)
{
    struct update **at = &up->owner->running;

    while (*at != up)
        at = &(*at)->next;
    *at = up->next;
    image_pull_free(up->pull);
    free(up->image);
    free(up);
}

static void on_progress(void *arg, const char *text)
{
    const struct update *up = arg;

    log_debug("update of image %s: %s", up->image, text);
}

static void on_pulled(void *arg, const struct err *err)
{
    struct update *up = arg;
    struct manager *m = up->owner->manager;

    up->pull = NULL;
    if (err)
        log_warning("update of image %s: %s", up->image, err->text);
    else
        restart_followers(m, up->image);
    update_free(up);
}

static bool is_running(const struct image_updates *u, const char *image)
{
    for (const struct update *up = u->running; up; up = up->next)
        if (streq(up->image, image))
            return true;
    return false;
}

static void begin(struct image_updates *u, const char *image)
{
    struct update *up = calloc(1, sizeof(*up));
    const struct image_pull_request request = { .name = image, .progress = on_progress, .done = on_pulled, .arg = up };

    if (!up || str_set(&up->image, image) < 0) {
        free(up);
        log_error("out of memory: image %s is not updated", image);
        return;
    }
    up->owner = u;
    up->next = u->running;
    u->running = up;
    log_info("update of image %s", image);
    if (image_pull_begin(u->manager, &request, &up->pull) < 0)
        update_free(up);
}

static void on_time(struct ev_loop *ev, ev_periodic *w, int events)
{
    struct image_updates *u = container_of(w, struct image_updates, at);

    map_foreach (u->manager->vms, e) {
        const struct vm *vm = map_value(e);

        if (vm->image && follows(vm, vm->image) && !is_running(u, vm->image))
            begin(u, vm->image);
    }
}

/* ---- ---- */

int image_updates_new(struct manager *m)
{
    struct image_updates *u = calloc(1, sizeof(*u));

    if (!u)
        return -ENOMEM;
    u->manager = m;
    ev_periodic_init(&u->at, on_time, 0., 0., reschedule);
    m->image_updates = u;
    return 0;
}

void image_updates_schedule(struct manager *m) { ev_periodic_again(loop_ev(m->loop), &m->image_updates->at); }

void image_updates_free(struct image_updates *u)
{
    if (!u)
        return;
    while (u->running)
        update_free(u->running);
    ev_periodic_stop(loop_ev(u->manager->loop), &u->at);
    free(u);
}
