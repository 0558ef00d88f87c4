#include "lib/images/activity.h"

#include <errno.h>

#include "lib/base/clock.h"
#include "lib/base/thread.h"
#include "lib/images/wire.h"

static const double tick_s = 0.25;
enum { QUEUE_MAX = 64 * 1024 }; /* who reads so slowly misses some progress */

static const char *const kinds[] = {
    [ACTIVITY_CHECK] = "check",
    [ACTIVITY_PULL] = "pull",
    [ACTIVITY_IMPORT] = "import",
    [ACTIVITY_VERIFY] = "verification",
};
const struct enum_names activity_kind_names = { .what = "activity", .names = kinds, .n = ARRAY_LEN(kinds) };
_Static_assert(ARRAY_LEN(kinds) == ACTIVITY_KIND_COUNT, "a name for each");

static void activity_free(struct activity *a)
{
    if (!a)
        return;
    image_task_clear(&a->task);
    images_config_clear(&a->config);
    free(a->name);
    free(a->version);
    free(a->folder);
    free(a->found);
    json_decref(a->release);
    free(a);
}
DEFINE_CLEANUP(struct activity *, activity, activity_free)
#define auto_activity auto_cleanup(activity_cleanup)

struct activity *activity_find(struct images_service *s, enum activity_kind kind, const char *name, const char *version)
{
    for (struct activity *a = s->activities; a; a = a->next)
        if (a->kind == kind && streq(a->name, name) && (!version || streq_opt(a->version, version)))
            return a;
    return NULL;
}

/* ---- watchers ---- */

static void watcher_remove(struct watcher *w)
{
    *w->prev_next = w->next;
    if (w->next)
        w->next->prev_next = w->prev_next;
    free(w);
}

static void on_gone(void *arg) { watcher_remove(arg); }

void activity_watch(struct activity *a, struct varlink_call *call, enum watcher_wish wish)
{
    struct watcher *w = calloc(1, sizeof(*w));

    if (!w) {
        (void)varlink_call_error_reason_consume(call, IMAGES_INTERFACE ".Failed", json_pack("{s:s}", "id", "no-memory"), "out of memory");
        return;
    }
    w->call = call;
    w->wish = wish;
    w->next = a->watchers;
    w->prev_next = &a->watchers;
    if (w->next)
        w->next->prev_next = &w->next;
    a->watchers = w;
    varlink_call_on_gone(call, on_gone, w);
}

/* ---- progress ---- */

static void sample(struct activity *a)
{
    if (a->n_samples == RATE_SAMPLES) {
        memmove(&a->samples[0], &a->samples[1], sizeof(a->samples) - sizeof(a->samples[0]));
        a->n_samples--;
    }
    a->samples[a->n_samples].at_us = clock_mono_us();
    a->samples[a->n_samples++].done = atomic_load(&a->task.done);
}

static uint64_t rate_of(const struct activity *a)
{
    uint64_t us, bytes;

    if (a->n_samples < 2)
        return 0;
    us = a->samples[a->n_samples - 1].at_us - a->samples[0].at_us;
    /* A file begun anew takes back what was done. */
    if (a->samples[a->n_samples - 1].done <= a->samples[0].done || us == 0)
        return 0;
    bytes = a->samples[a->n_samples - 1].done - a->samples[0].done;
    return bytes * 1000000 / us;
}

json_t *activity_progress(const struct activity *a)
{
    uint64_t done = atomic_load(&a->task.done), total = atomic_load(&a->task.total), rate = rate_of(a);
    json_t *left = rate && total > done ? json_integer((json_int_t)((total - done + rate - 1) / rate)) : NULL;

    return json_pack("{s:s, s:I, s:I, s:I, s:o*}", "phase", atomic_load(&a->task.phase), "done", (json_int_t)done, "total",
                     (json_int_t)total, "rate", (json_int_t)rate, "seconds_left", left);
}

static void tell(struct activity *a)
{
    for (struct watcher *w = a->watchers, *next; w; w = next) {
        next = w->next;
        if (varlink_call_wants_more(w->call) && w->wish != WISH_RESOLVE && varlink_call_queued(w->call) < QUEUE_MAX)
            (void)varlink_call_continue_consume(w->call, json_pack("{s:o}", "progress", activity_progress(a)));
    }
}

static void on_tick(struct ev_loop *ev, ev_timer *w, int events)
{
    struct images_service *s = container_of(w, struct images_service, tick);

    for (struct activity *a = s->activities; a; a = a->next) {
        sample(a);
        tell(a);
    }
    if (!s->activities)
        ev_timer_stop(ev, w);
}

/* ---- the thread ---- */

static void *thread_main(void *arg)
{
    struct activity *a = arg;
    struct images_service *s = a->service;

    activity_work(a);
    pthread_mutex_lock(&s->finished_mutex);
    a->next_finished = s->finished;
    s->finished = a;
    ev_async_send(loop_ev(s->loop), &s->wake);
    pthread_mutex_unlock(&s->finished_mutex);
    return NULL;
}

/* What fills the same folder. */
static bool fills(enum activity_kind kind) { return kind == ACTIVITY_PULL || kind == ACTIVITY_IMPORT; }

static int check_others(struct images_service *s, enum activity_kind kind, const char *name, const char *version, struct err *err)
{
    if (s->stopping)
        return err_set(err, EBUSY, "refused", "the image service is about to end");
    if (s->n_activities >= ACTIVITIES_MAX)
        return err_set(err, EBUSY, "refused", "%d pulls and the like are under way already: try again when one has ended",
                       (int)ACTIVITIES_MAX);
    for (const struct activity *a = s->activities; fills(kind) && a; a = a->next)
        if (fills(a->kind) && streq(a->name, name) && streq(a->version, version))
            return err_set(err, EBUSY, "refused", "image %s/%s has a %s under way", name, version,
                           enum_to_string(&activity_kind_names, (int)a->kind));
    return 0;
}

static void link_activity(struct images_service *s, struct activity *a)
{
    a->next = s->activities;
    a->prev_next = &s->activities;
    if (a->next)
        a->next->prev_next = &a->next;
    s->activities = a;
    s->n_activities++;
    if (!ev_is_active(&s->tick))
        ev_timer_again(loop_ev(s->loop), &s->tick);
}

int activity_begin(struct images_service *s, enum activity_kind kind, const char *name, const char *version, const char *folder,
                   struct activity **ret_activity, struct err *err)
{
    auto_activity struct activity *a = NULL;
    int r = check_others(s, kind, name, version, err);

    if (r < 0)
        return r;
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->service = s;
    a->kind = kind;
    a->begun_us = clock_real_us();
    a->task.cancel_fd = -1;
    if (str_set(&a->name, name) < 0 || str_set(&a->version, version) < 0 || str_set(&a->folder, folder) < 0)
        return -ENOMEM;
    r = image_task_init(&a->task, &s->limiter);
    if (r >= 0)
        r = thread_start(IMAGE_THREAD_STACK, thread_main, a, &a->thread);
    if (r < 0)
        return err_set_errno(err, -r, "no-thread", "can't begin the %s of %s", enum_to_string(&activity_kind_names, (int)kind), name);
    link_activity(s, a);
    *ret_activity = steal_ptr(&a);
    return 0;
}

/* ---- the end ---- */

static void finish(struct activity *a)
{
    struct images_service *s = a->service;

    (void)pthread_join(a->thread, NULL);
    *a->prev_next = a->next;
    if (a->next)
        a->next->prev_next = a->prev_next;
    s->n_activities--;
    while (a->watchers) {
        struct varlink_call *call = a->watchers->call;
        enum watcher_wish wish = a->watchers->wish;

        varlink_call_on_gone(call, NULL, NULL);
        watcher_remove(a->watchers);
        activity_answer(a, call, wish);
    }
    activity_free(a);
}

static void on_wake(struct ev_loop *ev, ev_async *w, int events)
{
    struct images_service *s = container_of(w, struct images_service, wake);
    struct activity *all;

    pthread_mutex_lock(&s->finished_mutex);
    all = steal_ptr(&s->finished);
    pthread_mutex_unlock(&s->finished_mutex);
    while (all) {
        struct activity *a = all;

        all = a->next_finished;
        finish(a);
    }
}

int activities_start(struct images_service *s)
{
    struct ev_loop *ev = loop_ev(s->loop);

    ev_async_init(&s->wake, on_wake);
    ev_async_start(ev, &s->wake);
    ev_init(&s->tick, on_tick);
    s->tick.repeat = tick_s;
    return 0;
}

bool activities_stop(struct images_service *s, uint64_t grace_ms)
{
    struct timespec until;

    for (struct activity *a = s->activities; a; a = a->next)
        image_task_cancel(&a->task);
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)(grace_ms / 1000);
    while (s->activities) {
        struct activity *a = s->activities;

        if (pthread_timedjoin_np(a->thread, NULL, &until) != 0)
            return false;
        s->activities = a->next;
        while (a->watchers) {
            varlink_call_on_gone(a->watchers->call, NULL, NULL); /* it goes with the service */
            watcher_remove(a->watchers);
        }
        activity_free(a);
    }
    s->n_activities = 0;
    ev_async_stop(loop_ev(s->loop), &s->wake);
    ev_timer_stop(loop_ev(s->loop), &s->tick);
    return true;
}
