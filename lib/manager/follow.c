#include "lib/manager/follow.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/base/strv.h"
#include "lib/manager/api.h"
#include "lib/manager/event_log.h"
#include "lib/manager/state.h"

enum {
    QUEUED_MAX = 256 * 1024, /* no further VM is replayed to a client that has so much to read */
    QUEUED_LOOK_MS = 20,
};

/* A follower is in one of three conditions as to a VM: its file isn't read yet (live events are skipped, they will be in the file when the
 * writer, which is in order, comes to read it), it is being read (live events are kept), or it has been replayed (live events are sent). */
struct subscriber {
    struct subscriber *next, **prev_next;
    struct manager *manager;
    struct varlink_call *call; /* NULL: the client is gone, and a job holds us */
    bool follow, all;
    bool has_since;
    uint64_t since;
    struct strv names; /* to be replayed; with !all also what is followed */
    size_t at;         /* the one being replayed, names.n: all are */
    json_t *kept;      /* live replies of the VM being replayed */
    bool job_out;
    ev_timer look;
};

struct replay_job {
    struct job job;
    struct subscriber *subscriber;
    int state_vms_fd;
    const char *name;
    uint64_t since;
    json_t *events;
    int r;
};

static void subscriber_free(struct subscriber *s)
{
    *s->prev_next = s->next;
    if (s->next)
        s->next->prev_next = s->prev_next;
    ev_timer_stop(loop_ev(s->manager->loop), &s->look);
    strv_clear(&s->names);
    json_decref(s->kept);
    free(s);
}

static void on_gone(void *arg)
{
    struct subscriber *s = arg;

    s->call = NULL;
    if (!s->job_out)
        subscriber_free(s);
}

static json_t *event_reply(const char *name, const json_t *event)
{
    auto_json json_t *copy = json_copy((json_t *)(uintptr_t)event);

    /* `name` comes on top of what the shim said; the event itself stays shared. */
    if (!copy || json_object_set_new(copy, "name", json_string(name)) < 0)
        return NULL;
    return json_pack("{s:O}", "event", copy);
}

static json_t *gap_reply(const char *name, uint64_t lost)
{
    return json_pack("{s:{s:s, s:I}}", "gap", "name", name, "lost", (json_int_t)lost);
}

/* False: the client is gone (and the subscriber perhaps, too). */
static bool send_consume(struct subscriber *s, json_t *reply)
{
    if (!s->call) {
        json_decref(reply);
        return false;
    }
    if (!reply)
        return true; /* no memory: this one is lost, as the next one's number will tell */
    return varlink_call_continue_consume(s->call, reply) >= 0;
}

static void replay_run(struct job *job);
static void replay_done(struct job *job);

static void finish(struct subscriber *s)
{
    struct varlink_call *call = s->call;

    subscriber_free(s);
    varlink_call_reply_consume(call, NULL);
}

static void replay_next(struct subscriber *s)
{
    struct replay_job *job;

    if (s->at >= s->names.n) {
        if (!s->follow)
            finish(s);
        return;
    }
    if (varlink_call_queued(s->call) > QUEUED_MAX) {
        ev_timer_set(&s->look, QUEUED_LOOK_MS / 1000., 0.);
        ev_timer_start(loop_ev(s->manager->loop), &s->look);
        return;
    }
    job = calloc(1, sizeof(*job));
    if (!job) {
        struct varlink_call *call = s->call;

        subscriber_free(s);
        api_fail_memory(call);
        return;
    }
    job->job.run = replay_run;
    job->job.done = replay_done;
    job->subscriber = s;
    job->state_vms_fd = s->manager->state_vms_fd;
    job->name = s->names.items[s->at];
    job->since = s->since;
    job->events = json_array();
    s->kept = json_array();
    s->job_out = true;
    worker_add(s->manager->writer, &job->job);
}

static void look(struct ev_loop *ev, ev_timer *timer, int events) { replay_next(container_of(timer, struct subscriber, look)); }

static void collect(void *arg, json_t *event) { (void)json_array_append(arg, event); }

static void replay_run(struct job *job)
{
    struct replay_job *r = container_of(job, struct replay_job, job);
    char path[VM_PATH_MAX];

    r->r = r->events ? event_log_read(r->state_vms_fd, name_path(r->name, FILE_EVENTS, path), r->since, collect, r->events) : -ENOMEM;
}

static void send_replay(struct subscriber *s, const struct replay_job *r)
{
    uint64_t before = s->has_since ? s->since : 0;
    size_t i;
    json_t *event, *live;

    json_array_foreach (r->events, i, event) {
        uint64_t seq = (uint64_t)json_integer_value(json_object_get(event, "seq"));

        /* Without a `since` nobody missed what was before the oldest kept. */
        if (seq > before + 1 && (before > 0 || s->has_since) && !send_consume(s, gap_reply(r->name, seq - before - 1)))
            return;
        before = seq;
        if (!send_consume(s, event_reply(r->name, event)))
            return;
    }
    json_array_foreach (s->kept, i, live) {
        if (!send_consume(s, json_incref(live)))
            return;
    }
}

static void replay_done(struct job *job)
{
    struct replay_job *r = container_of(job, struct replay_job, job);
    struct subscriber *s = r->subscriber;

    if (r->r < 0)
        log_vm_error(r->name, "can't read %s: %s", FILE_EVENTS, strerror(-r->r));
    if (s->call)
        send_replay(s, r);
    json_decref(r->events);
    free(r);
    s->job_out = false;
    json_decref(s->kept);
    s->kept = NULL;
    if (!s->call) {
        subscriber_free(s);
        return;
    }
    s->at++;
    replay_next(s);
}

/* Where the VM is among those to be replayed; names.n: nowhere. */
static size_t find_name(const struct subscriber *s, const char *name)
{
    size_t i;

    for (i = 0; i < s->names.n; i++) {
        if (streq(s->names.items[i], name))
            break;
    }
    return i;
}

static void publish(struct subscriber *s, const char *name, json_t *reply)
{
    bool replaying = s->at < s->names.n;
    size_t i;

    if (!s->call || !s->follow)
        return;
    if (replaying || !s->all) {
        i = find_name(s, name);
        if (i == s->names.n && !s->all)
            return;
        if (replaying && i < s->names.n && i > s->at)
            return;
        if (replaying && i == s->at) {
            if (s->job_out)
                (void)json_array_append(s->kept, reply);
            return; /* not read yet: it will be in the file */
        }
    }
    (void)send_consume(s, json_incref(reply));
}

static void publish_all_consume(struct manager *m, const char *name, json_t *reply)
{
    for (struct subscriber *s = m->subscribers, *next; s && reply; s = next) {
        next = s->next;
        publish(s, name, reply);
    }
    json_decref(reply);
}

void follow_publish(struct manager *m, const char *name, const json_t *event)
{
    if (m->subscribers)
        publish_all_consume(m, name, event_reply(name, event));
}

void follow_publish_gap(struct manager *m, const char *name, uint64_t lost)
{
    if (m->subscribers)
        publish_all_consume(m, name, gap_reply(name, lost));
}

/* Fills the list of names; the name of one that doesn't exist, or NULL. */
static const char *take_names(struct subscriber *s, const json_t *names)
{
    size_t i;
    json_t *name;

    s->all = !json_is_array(names);
    if (s->all) {
        map_foreach (s->manager->vms, e)
            strv_push(&s->names, map_key(e));
        return NULL;
    }
    json_array_foreach (names, i, name) {
        if (!map_get(s->manager->vms, json_string_value(name)))
            return json_string_value(name);
        if (find_name(s, json_string_value(name)) == s->names.n)
            strv_push(&s->names, json_string_value(name));
    }
    return NULL;
}

void follow_begin(struct manager *m, struct varlink_call *call, const json_t *parameters)
{
    struct subscriber *s = calloc(1, sizeof(*s));
    const json_t *since = json_object_get(parameters, "since");
    const char *missing;

    if (!s) {
        api_fail_memory(call);
        return;
    }
    s->manager = m;
    s->follow = json_is_true(json_object_get(parameters, "follow"));
    s->has_since = json_is_integer(since) && json_integer_value(since) >= 0;
    s->since = s->has_since ? (uint64_t)json_integer_value(since) : 0;
    ev_timer_init(&s->look, look, 0., 0.);
    s->next = m->subscribers;
    s->prev_next = &m->subscribers;
    if (s->next)
        s->next->prev_next = &s->next;
    m->subscribers = s;
    missing = take_names(s, json_object_get(parameters, "names"));
    if (missing) {
        api_no_such_vm(call, missing);
        subscriber_free(s);
        return;
    }
    if (s->names.failed) {
        api_fail_memory(call);
        subscriber_free(s);
        return;
    }
    s->call = call;
    varlink_call_on_gone(call, on_gone, s);
    replay_next(s);
}

void follow_clear(struct manager *m)
{
    while (m->subscribers) {
        struct subscriber *s = m->subscribers;

        if (s->call) /* it lives on until its connection ends, and must not tell us then */
            varlink_call_on_gone(s->call, NULL, NULL);
        subscriber_free(s);
    }
}
