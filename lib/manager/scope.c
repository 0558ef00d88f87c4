#include "lib/manager/scope.h"

#include <errno.h>
#include <fcntl.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "lib/manager/bus.h"
#include "lib/manager/cgroup.h"

#define SYSTEMD "org.freedesktop.systemd1"
#define SYSTEMD_PATH "/org/freedesktop/systemd1"
#define SYSTEMD_MANAGER SYSTEMD ".Manager"
#define DRAIN_UNIT "holdfast-drain.service"

enum { AGAIN_MS = 50 };

struct scopes {
    struct bus bus;
    char suffix[16]; /* ":HASH", or "" */
    bool system;
    bool possible;
    bool (*is_in)(pid_t pid, const char *unit);
    struct scope_move *moves;
};

struct scope_move {
    struct scope_move *next, **prev_next;
    struct scopes *scopes;
    char *unit, *description;
    pid_t pids[SCOPE_PIDS_MAX];
    size_t n_pids;
    struct limits limits;
    sd_bus_slot *slot; /* of the call that is out */
    char *job;         /* of systemd, that we wait for */
    ev_timer deadline, again;
    char why[ERR_TEXT_MAX]; /* what systemd said last */
    void (*done)(void *arg, const struct err *err);
    void *arg;
};

/* ---- one move ---- */

static void move_free(struct scope_move *move)
{
    struct ev_loop *ev = loop_ev(move->scopes->bus.loop);

    if (move->prev_next) {
        *move->prev_next = move->next;
        if (move->next)
            move->next->prev_next = move->prev_next;
    }
    ev_timer_stop(ev, &move->deadline);
    ev_timer_stop(ev, &move->again);
    sd_bus_slot_unref(move->slot);
    free(move->unit);
    free(move->description);
    free(move->job);
    free(move);
}

void scope_move_cancel(struct scope_move *move)
{
    if (move)
        move_free(move);
}

static void end(struct scope_move *move, const struct err *err)
{
    void (*done)(void *arg, const struct err *err) = move->done;
    void *arg = move->arg;

    move_free(move);
    done(arg, err);
}

static void fail(struct scope_move *move, int error, const char *what, const char *why)
{
    struct err err = ERR_INIT;

    (void)err_set(&err, error, "no-scope", "%s: %s: %s", move->unit, what, why);
    end(move, &err);
}

static bool is_alive(pid_t pid) { return kill(pid, 0) >= 0 || errno == EPERM; }

/* Believed is the kernel, not systemd. */
static void verify(struct scope_move *move)
{
    for (size_t i = 0; i < move->n_pids; i++) {
        char why[64];

        if (move->scopes->is_in(move->pids[i], move->unit) || !is_alive(move->pids[i]))
            continue;
        (void)snprintf(why, sizeof(why), "process %d is not in it", (int)move->pids[i]);
        fail(move, EIO, "systemd says that it is done", why);
        return;
    }
    end(move, NULL);
}

static void begin(struct scope_move *move);

static void on_again(struct ev_loop *ev, ev_timer *w, int events) { begin(container_of(w, struct scope_move, again)); }

static void on_deadline(struct ev_loop *ev, ev_timer *w, int events)
{
    struct scope_move *move = container_of(w, struct scope_move, deadline);

    fail(move, ETIMEDOUT, "systemd has not made it in time", *move->why ? move->why : "no answer");
}

static void remember(struct scope_move *move, const sd_bus_error *e)
{
    (void)snprintf(move->why, sizeof(move->why), "%s", e->message && *e->message ? e->message : e->name);
}

/* ---- asking systemd ---- */

static int on_attached(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
    struct scope_move *move = userdata;
    const sd_bus_error *e = sd_bus_message_get_error(reply);
    struct ev_loop *ev = loop_ev(move->scopes->bus.loop);

    move->slot = sd_bus_slot_unref(move->slot);
    if (!e) {
        verify(move);
        return 0;
    }
    /* There is a scope of this name, and it is ending: its last process went a moment ago. A new one can be made when it is gone. */
    remember(move, e);
    ev_timer_set(&move->again, AGAIN_MS / 1000., 0.);
    ev_timer_start(ev, &move->again);
    return 0;
}

static int append_pids(const struct scope_move *move, sd_bus_message *m)
{
    int r = sd_bus_message_open_container(m, 'a', "u");

    for (size_t i = 0; i < move->n_pids && r >= 0; i++)
        if (!move->scopes->is_in(move->pids[i], move->unit))
            r = sd_bus_message_append(m, "u", (uint32_t)move->pids[i]);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static int new_call(const struct scope_move *move, const char *method, sd_bus_message **ret_message)
{
    return sd_bus_message_new_method_call(move->scopes->bus.bus, ret_message, SYSTEMD, SYSTEMD_PATH, SYSTEMD_MANAGER, method);
}

static int send_consume(struct scope_move *move, sd_bus_message *m, int r, sd_bus_message_handler_t answer)
{
    if (r >= 0)
        r = sd_bus_call_async(move->scopes->bus.bus, &move->slot, m, answer, move, (uint64_t)SCOPE_TIMEOUT_MS * 1000);
    sd_bus_message_unref(m);
    return r;
}

/* The scope is there: of a VM whose shim died, or was moved by a manager before us. */
static int attach(struct scope_move *move)
{
    sd_bus_message *m = NULL;
    int r = new_call(move, "AttachProcessesToUnit", &m);

    if (r >= 0)
        r = sd_bus_message_append(m, "ss", move->unit, "");
    if (r >= 0)
        r = append_pids(move, m);
    return send_consume(move, m, r, on_attached);
}

static int on_started(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error)
{
    struct scope_move *move = userdata;
    const sd_bus_error *e = sd_bus_message_get_error(reply);
    const char *job = NULL;
    int r = 0;

    move->slot = sd_bus_slot_unref(move->slot);
    if (!e) {
        r = sd_bus_message_read(reply, "o", &job);
        if (r >= 0)
            r = str_set(&move->job, job);
    } else if (sd_bus_error_has_name(e, SYSTEMD ".UnitExists")) {
        r = attach(move);
    } else {
        remember(move, e);
        fail(move, sd_bus_error_get_errno(e), "systemd refuses it", move->why);
        return 0;
    }
    if (r < 0)
        fail(move, -r, "asking systemd", strerror(-r));
    return 0;
}

static int append_u64(sd_bus_message *m, const char *name, uint64_t value) { return sd_bus_message_append(m, "(sv)", name, "t", value); }

static int append_limits(const struct limits *l, sd_bus_message *m)
{
    const struct {
        const char *name;
        uint64_t value;
    } properties[] = {
        { "CPUQuotaPerSecUSec", l->cpu_quota * 10000 }, /* of a second: 1 % is 10 ms */
        { "CPUWeight", l->cpu_weight },
        { "MemoryHigh", l->memory_high },
        { "MemoryMax", l->memory_max },
        { "IOWeight", l->io_weight },
    };
    int r = 0;

    for (size_t i = 0; i < ARRAY_LEN(properties) && r >= 0; i++)
        if (properties[i].value != 0)
            r = append_u64(m, properties[i].name, properties[i].value);
    return r;
}

static int append_properties(const struct scope_move *move, sd_bus_message *m)
{
    int r = sd_bus_message_open_container(m, 'a', "(sv)");

    if (r >= 0)
        r = sd_bus_message_append(m, "(sv)(sv)", "Description", "s", move->description, "Slice", "s", "holdfast.slice");
    /* The shim makes a cgroup for QEMU in it; and to a scope that isn't delegated no process could be added later. */
    if (r >= 0)
        r = sd_bus_message_append(m, "(sv)", "Delegate", "b", true);
    /* One that ended badly is of no interest to anybody, and would be in the way of the next. */
    if (r >= 0)
        r = sd_bus_message_append(m, "(sv)", "CollectMode", "s", "inactive-or-failed");
    /* At the host's end guests are shut down by that unit before systemd ends what is left. */
    if (r >= 0 && move->scopes->system)
        r = sd_bus_message_append(m, "(sv)", "Before", "as", 1, DRAIN_UNIT);
    /* A thread of QEMU that can't be started is an I/O error in the guest. */
    if (r >= 0)
        r = append_u64(m, "TasksMax", UINT64_MAX);
    if (r >= 0)
        r = append_limits(&move->limits, m);
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'r', "sv");
    if (r >= 0)
        r = sd_bus_message_append(m, "s", "PIDs");
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'v', "au");
    if (r >= 0)
        r = append_pids(move, m);
    for (int i = 0; i < 3 && r >= 0; i++)
        r = sd_bus_message_close_container(m);
    return r;
}

static int start(struct scope_move *move)
{
    sd_bus_message *m = NULL;
    int r = new_call(move, "StartTransientUnit", &m);

    if (r >= 0)
        r = sd_bus_message_append(m, "ss", move->unit, "fail");
    if (r >= 0)
        r = append_properties(move, m);
    if (r >= 0)
        r = sd_bus_message_append(m, "a(sa(sv))", 0);
    return send_consume(move, m, r, on_started);
}

static void begin(struct scope_move *move)
{
    int r = start(move);

    if (r < 0)
        fail(move, -r, "asking systemd", strerror(-r));
}

/* ---- all of them ---- */

static int on_job_removed(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
    struct scopes *s = userdata;
    const char *job = NULL, *unit = NULL, *result = NULL;
    uint32_t id;

    if (sd_bus_message_read(m, "uoss", &id, &job, &unit, &result) < 0)
        return 0;
    for (struct scope_move *move = s->moves; move; move = move->next) {
        if (!streq_opt(move->job, job))
            continue;
        if (streq(result, "done"))
            verify(move);
        else
            fail(move, EIO, "systemd could not make it", result);
        break;
    }
    return 0;
}

static int on_ready(struct bus *b)
{
    struct scopes *s = container_of(b, struct scopes, bus);

    /* Without a bus in between nobody says who a signal is from. */
    const char *sender = sd_bus_is_bus_client(b->bus) > 0 ? SYSTEMD : NULL;

    return sd_bus_match_signal_async(b->bus, NULL, sender, SYSTEMD_PATH, SYSTEMD_MANAGER, "JobRemoved", on_job_removed, NULL, s);
}

static void on_lost(struct bus *b, int error)
{
    struct scopes *s = container_of(b, struct scopes, bus);

    /* What ends may begin another one; that one isn't ours to end. */
    for (struct scope_move *move = s->moves, *next; move; move = next) {
        next = move->next;
        fail(move, -error, "the line to systemd was lost", strerror(-error));
    }
}

static bool is_in(pid_t pid, const char *unit) { return cgroup_pid_is_in_unit(pid, unit); }

static bool is_usual_place(const char *run_dir, bool system)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    auto_free char *usual = NULL;

    if (system)
        return streq(run_dir, "/run/holdfast");
    return runtime && str_format(&usual, "%s/holdfast", runtime) >= 0 && streq(run_dir, usual);
}

int scopes_new(struct loop *l, const struct scopes_config *config, struct scopes **ret_scopes)
{
    struct scopes *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    s->system = geteuid() == 0;
    s->possible = config->address || sd_booted() > 0;
    s->is_in = config->is_in ? config->is_in : is_in;
    if (!is_usual_place(config->run_dir, s->system))
        (void)snprintf(s->suffix, sizeof(s->suffix), ":%08x", (unsigned)hash_bytes(HASH_BEGIN, config->run_dir, strlen(config->run_dir)));
    bus_init(&s->bus, l);
    s->bus.address = config->address;
    s->bus.ready = on_ready;
    s->bus.lost = on_lost;
    *ret_scopes = s;
    return 0;
}

void scopes_free(struct scopes *s)
{
    if (!s)
        return;
    while (s->moves)
        move_free(s->moves);
    bus_close(&s->bus);
    free(s);
}

bool scopes_possible(const struct scopes *s) { return s->possible; }

char *scope_unit(const struct scopes *s, const char *vm)
{
    char *unit = NULL;

    /* All that may be in a VM's name may be in a unit's. */
    return str_format(&unit, "holdfast-vm-%s%s.scope", vm, s->suffix) < 0 ? NULL : unit;
}

bool scope_holds(const struct scopes *s, const char *vm, pid_t pid)
{
    auto_free char *unit = scope_unit(s, vm);

    return unit && s->is_in(pid, unit);
}

static struct scope_move *move_new(struct scopes *s, const struct scope_request *what)
{
    struct scope_move *move = calloc(1, sizeof(*move));
    struct ev_loop *ev = loop_ev(s->bus.loop);

    if (!move)
        return NULL;
    move->scopes = s;
    move->done = what->done;
    move->arg = what->arg;
    if (what->limits)
        move->limits = *what->limits;
    for (size_t i = 0; i < what->n_pids && move->n_pids < SCOPE_PIDS_MAX; i++)
        move->pids[move->n_pids++] = what->pids[i];
    ev_timer_init(&move->again, on_again, 0., 0.);
    ev_now_update(ev);
    ev_timer_init(&move->deadline, on_deadline, SCOPE_TIMEOUT_MS / 1000., 0.);
    move->unit = scope_unit(s, what->vm);
    if (!move->unit || str_format(&move->description, "Holdfast VM %s", what->vm) < 0) {
        move_free(move);
        return NULL;
    }
    return move;
}

int scope_move(struct scopes *s, const struct scope_request *what, struct scope_move **ret_move, struct err *err)
{
    struct scope_move *move;
    int r = bus_connect(&s->bus, err);

    if (r < 0)
        return r;
    move = move_new(s, what);
    if (!move)
        return -ENOMEM;
    r = start(move);
    if (r < 0) {
        r = err_set_errno(err, -r, "no-scope", "asking systemd for %s", move->unit);
        move_free(move);
        return r;
    }
    move->next = s->moves;
    move->prev_next = &s->moves;
    if (move->next)
        move->next->prev_next = &move->next;
    s->moves = move;
    ev_timer_start(loop_ev(s->bus.loop), &move->deadline);
    *ret_move = move;
    return 0;
}
