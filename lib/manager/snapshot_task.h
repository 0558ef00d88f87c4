/* Calls about snapshots that a thread works at while the loop goes on: the answer when it is done, and progress meanwhile. */
#pragma once

#include "lib/loop/worker.h"
#include "lib/manager/api.h"
#include "lib/manager/snapshot_verify.h"
#include "lib/manager/snapshots.h"

/* A verify or the like: calls a client looks at, and may go away from. */
struct long_job {
    struct job job;
    struct manager *manager;
    struct answer answer;
    const char *phase; /* for progress */
    struct verify_progress progress;
    ev_timer tick;
    struct long_job *next, **prev_next;
};

/* Puts it on the worker: `run` on the thread, then `done` on the loop. A client that goes away sets progress.cancelled. */
void long_job_begin(struct long_job *l, struct worker *w, struct varlink_call *call);
/* First thing in done(): no more progress is told, and the manager has forgotten it. */
void long_job_ended(struct long_job *l);
/* At the manager's end. */
void long_jobs_cancel(struct manager *m);

/* A Progress of the interface as a continued reply, when the client asked for such. */
void task_tell_progress(struct varlink_call *call, const char *phase, uint64_t done, uint64_t total);
