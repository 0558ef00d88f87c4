#include "lib/manager/snapshot_task.h"

#include "lib/manager/state.h"

enum { PROGRESS_MS = 200 };

void task_tell_progress(struct varlink_call *call, const char *phase, uint64_t done, uint64_t total)
{
    if (varlink_call_wants_more(call))
        varlink_call_continue_consume(
            call, json_pack("{s:{s:s, s:I, s:I}}", "progress", "phase", phase, "done", (json_int_t)done, "total", (json_int_t)total));
}

static void on_tick(struct ev_loop *ev, ev_timer *timer, int events)
{
    struct long_job *l = container_of(timer, struct long_job, tick);

    if (l->answer.call)
        task_tell_progress(l->answer.call, l->phase, atomic_load(&l->progress.done), atomic_load(&l->progress.total));
}

static void on_gone(void *arg)
{
    struct long_job *l = arg;

    l->answer.call = NULL;
    atomic_store(&l->progress.cancelled, true);
}

void long_job_begin(struct long_job *l, struct worker *w, struct varlink_call *call)
{
    struct manager *m = l->manager;

    l->answer.call = call;
    varlink_call_on_gone(call, on_gone, l);
    l->next = m->long_jobs;
    l->prev_next = &m->long_jobs;
    if (l->next)
        l->next->prev_next = &l->next;
    m->long_jobs = l;
    ev_timer_init(&l->tick, on_tick, PROGRESS_MS / 1000., PROGRESS_MS / 1000.);
    ev_now_update(loop_ev(m->loop));
    ev_timer_start(loop_ev(m->loop), &l->tick);
    worker_add(w, &l->job);
}

void long_job_ended(struct long_job *l)
{
    ev_timer_stop(loop_ev(l->manager->loop), &l->tick);
    *l->prev_next = l->next;
    if (l->next)
        l->next->prev_next = l->prev_next;
}

void long_jobs_cancel(struct manager *m)
{
    for (struct long_job *l = m->long_jobs; l; l = l->next)
        atomic_store(&l->progress.cancelled, true);
}
