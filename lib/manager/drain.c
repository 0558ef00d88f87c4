#include "lib/manager/drain.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/api.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"
#include "proto/launch.h"

enum { MARKER_MAX = 128 };

/* A client that waits for the end. */
struct drain_call {
    struct drain_call *next, **prev_next;
    struct varlink_call *call;
};

/* ---- the marker ---- */

int drain_marker_parse(const char *text, const char *boot_id)
{
    size_t len = strlen(boot_id);
    char number[16];
    uint64_t parallel;

    if (strnlen(text, len) < len || text[len] != ' ')
        return -EINVAL;
    if (memcmp(text, boot_id, len) != 0)
        return -ESTALE;
    (void)snprintf(number, sizeof(number), "%.*s", (int)strcspn(text + len + 1, "\n"), text + len + 1);
    return parse_u64(number, 1, DRAIN_PARALLEL_MAX, &parallel) < 0 ? -EINVAL : (int)parallel;
}

struct marker_job {
    struct job job;
    struct manager *manager;
    unsigned parallel; /* 0: removed */
    int r;
};

static void write_marker(struct job *job)
{
    struct marker_job *j = container_of(job, struct marker_job, job);
    const struct manager *m = j->manager;
    char text[MARKER_MAX];
    int n = snprintf(text, sizeof(text), "%s %u\n", m->boot_id, j->parallel);

    if (j->parallel > 0)
        j->r = file_write(m->run_fd, FILE_DRAINING, text, (size_t)n, FILE_MODE, FILE_ATOMIC);
    else
        j->r = unlinkat(m->run_fd, FILE_DRAINING, 0) < 0 && errno != ENOENT ? -errno : 0;
}

static void marker_written(struct job *job)
{
    struct marker_job *j = container_of(job, struct marker_job, job);

    if (j->r < 0)
        log_error("%s/%s can't be %s: %s: the next manager will %s", j->manager->dirs.run, FILE_DRAINING,
                  j->parallel ? "written" : "removed", strerror(-j->r),
                  j->parallel ? "start the VMs again" : "take the host for one that is drained");
    free(j);
}

static void set_marker(struct manager *m, unsigned parallel)
{
    struct marker_job *j = calloc(1, sizeof(*j));

    m->draining = parallel;
    if (!j) {
        log_error("%s/%s can't be written: out of memory", m->dirs.run, FILE_DRAINING);
        return;
    }
    j->manager = m;
    j->parallel = parallel;
    j->job.run = write_marker;
    j->job.done = marker_written;
    worker_add(m->writer, &j->job);
}

void drain_resume(struct manager *m)
{
    auto_free char *text = NULL;
    size_t len;
    int r;

    if (file_read(m->run_fd, FILE_DRAINING, MARKER_MAX, &text, &len) < 0)
        return;
    r = drain_marker_parse(text, m->boot_id);
    if (r > 0) {
        log_warning("the host is being drained: VMs are shut down, none is started until it has rebooted or \"vmctl drain --off\"");
        m->draining = (unsigned)r;
    } else if (r == -ESTALE) {
        set_marker(m, 0);
    } else {
        log_error("%s/%s doesn't parse: no drain is begun for it", m->dirs.run, FILE_DRAINING);
    }
}

/* ---- one VM ---- */

static bool is_there(const struct vm *vm) { return vm->presence != PRESENCE_GONE || vm->launch; }

/* Why nothing can be done about a VM that is there, NULL: something can, or it isn't known yet. */
static const char *obstacle(const struct vm *vm)
{
    if (vm->view == VIEW_UNRESPONSIVE)
        return "its shim doesn't answer";
    if (vm_is_lost(vm))
        return "it has lost its shim, and no other could take it over";
    if (vm->presence == PRESENCE_SHIM && vm->view == VIEW_UNKNOWN && !vm->adopting && vm->answered)
        return vm->reason ? vm->reason : "what it is isn't known";
    if (vm->unsaved)
        return "that it is wanted again after the boot can't be written to disk";
    return NULL;
}

static bool was_asked(const struct vm *vm) { return vm->wanted.wish != WANTED_RUNNING || vm->wanted.from > vm->incarnation; }

/* One that has ended by itself goes by itself, and stays off if that was for good. */
static bool is_leaving(const struct vm *vm) { return vm->view == STATE_EXITED || vm->view == STATE_FAILED; }

static bool can_be_asked(const struct vm *vm)
{
    return vm->presence == PRESENCE_SHIM && vm->answered && !vm->launch && !is_leaving(vm) && !was_asked(vm);
}

/* ---- all of them ---- */

static void progress(struct manager *m, const struct vm *vm)
{
    auto_free char *text = NULL;

    if (str_format(&text, "stopping %s", vm->name) < 0)
        return;
    for (struct drain_call *c = m->drain_calls, *next; c; c = next) {
        next = c->next;
        if (varlink_call_wants_more(c->call))
            varlink_call_continue_consume(c->call, json_pack("{s:o}", "progress", json_text(text)));
    }
}

static void ask(struct vm *vm)
{
    log_vm_info(vm->name, "shut down: the host is being drained");
    wish_begin_at(vm, vm->incarnation + 1);
    progress(vm->manager, vm);
    vm_changed(vm);
}

static void call_free(struct drain_call *c)
{
    *c->prev_next = c->next;
    if (c->next)
        c->next->prev_next = c->prev_next;
    free(c);
}

static void on_gone(void *arg) { call_free(arg); }

void drain_clear(struct manager *m)
{
    while (m->drain_calls)
        call_free(m->drain_calls);
}

static json_t *list_left(const struct manager *m)
{
    json_t *left = json_array();

    map_foreach (m->vms, e) {
        const struct vm *vm = map_value(e);
        const char *why = is_there(vm) ? obstacle(vm) : NULL;

        if (is_there(vm))
            json_array_append_new(left,
                                  json_pack("{s:s, s:o}", "name", vm->name, "reason", json_text(why ? why : "the drain was called off")));
    }
    return left;
}

static void answer_all(struct manager *m)
{
    while (m->drain_calls) {
        struct varlink_call *call = m->drain_calls->call;
        json_t *reply = json_pack("{s:o}", "left", list_left(m));

        call_free(m->drain_calls);
        varlink_call_reply_consume(call, reply);
    }
}

void drain_step(struct manager *m)
{
    struct vm *next;
    unsigned busy;

    while (m->draining && !m->stopping) {
        next = NULL;
        busy = 0;
        map_foreach (m->vms, e) {
            struct vm *vm = map_value(e);

            if (!is_there(vm) || obstacle(vm))
                continue;
            if (!can_be_asked(vm))
                busy++; /* on its way down, or not known well enough yet */
            else if (!next || vm->started_us > next->started_us)
                next = vm;
        }
        if (!next && busy == 0)
            answer_all(m);
        if (!next || busy >= m->draining)
            return;
        ask(next);
        if (can_be_asked(next)) /* out of memory; the next change of anything tries again */
            return;
    }
}

/* ---- the method ---- */

static void call_off(struct manager *m)
{
    if (!m->draining)
        return;
    log_info("the drain is called off: VMs that are wanted are started again");
    set_marker(m, 0);
    answer_all(m);
    map_foreach (m->vms, e)
        vm_changed(map_value(e));
}

void api_drain(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    struct manager *m = userdata;
    json_int_t parallel = json_integer_value(json_object_get(parameters, "parallel"));
    struct drain_call *c;

    if (json_is_true(json_object_get(parameters, "off"))) {
        call_off(m);
        varlink_call_reply_consume(call, json_pack("{s:[]}", "left"));
        return;
    }
    if (parallel < 0 || parallel > DRAIN_PARALLEL_MAX) {
        api_refuse(call, "", "%lld at a time: expected 1 to %d", (long long)parallel, DRAIN_PARALLEL_MAX);
        return;
    }
    c = calloc(1, sizeof(*c));
    if (!c) {
        api_fail_memory(call);
        return;
    }
    c->call = call;
    c->next = m->drain_calls;
    c->prev_next = &m->drain_calls;
    if (c->next)
        c->next->prev_next = &c->next;
    m->drain_calls = c;
    varlink_call_on_gone(call, on_gone, c);
    log_info("the host is being drained");
    set_marker(m, parallel > 0 ? (unsigned)parallel : DRAIN_PARALLEL);
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (vm->launch) /* what it waits for may take long */
            vm_changed(vm);
    }
    drain_step(m);
}
