/* planner_check(): many specs are checked in one job, so that what is given to them is one write. */
#include <errno.h>
#include <malloc.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/manager/allocations.h"
#include "lib/manager/live.h"
#include "lib/manager/plan_host.h"
#include "lib/manager/plan_image.h"
#include "lib/manager/planner.h"
#include "lib/manager/qemu_cache.h"
#include "lib/manager/state.h"
#include "lib/qemu/capabilities.h"
#include "lib/spec/spec.h"

enum {
    BATCH_MAX = 256, /* long enough for few writes, short enough for the loop not to be held up by its end */
    BATCHES = 2,     /* at a time: one reader is left for those who wait */
    ASKS_MAX = 8,    /* QEMUs of one batch that may have to be asked; there are hardly two on a host */
};

struct batch {
    struct job job;
    struct manager *manager;
    size_t n;
    unsigned asked;
    struct plan_host host;
    struct plan_request *requests[BATCH_MAX];
    struct spec specs[BATCH_MAX];
};

static void batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        plan_request_free(b->requests[i]);
        spec_clear(&b->specs[i]);
    }
    plan_host_clear(&b->host);
    free(b);
}
DEFINE_CLEANUP(struct batch *, batch, batch_free)

static void end_all(struct batch *b, int committed)
{
    for (size_t i = 0; i < b->n; i++)
        plan_end(b->requests[i], &b->specs[i], &b->host, committed);
}

static void run(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    int r = plan_host_look(b->requests[0]->qemu_user, &b->host);

    for (size_t i = 0; i < b->n; i++) {
        if (r >= 0)
            plan_begin(b->requests[i], &b->specs[i]);
        else
            b->requests[i]->r = r;
    }
    end_all(b, allocations_commit(b->manager->allocations));
}

/* Those that go on from where they were. */
static bool waits(const struct plan_request *p) { return p->r == -EAGAIN && p->qemu_path; }

static void run_again(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);

    for (size_t i = 0; i < b->n; i++)
        if (waits(b->requests[i]))
            plan_end(b->requests[i], &b->specs[i], &b->host, 0);
}

static const struct plan_request *first_waiting(const struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        if (waits(b->requests[i]))
            return b->requests[i];
    return NULL;
}

static void ask(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);

    const struct plan_request *p = first_waiting(b);

    (void)qemu_cache_ask(b->manager->qemus, p->qemu_path, p->features, NULL); /* the cache knows a failure, too */
}

/* What was started by a manager that kept no record of it. */
static void adopt(struct plan_request *p)
{
    struct vm *vm = p->vm;
    bool lives = vm->presence == PRESENCE_SHIM || vm->presence == PRESENCE_ORPHAN;

    if (lives && streq(vm->plan_digest, p->digest) && !allocations_holds(vm->manager->allocations, vm->name))
        allocations_adopt_take(vm->manager->allocations, vm->name, &p->claims);
}

static void note(struct plan_request *p)
{
    struct vm *vm = p->vm;
    bool wrong;

    if (p->r == -EAGAIN)
        err_set(&p->err, EAGAIN, "no-qemu", "%s changes while it is looked at: try again", p->qemu_path ? p->qemu_path : "QEMU");
    if (vm->gone_from_registry || vm->spec_second)
        return;
    if (p->r >= 0) {
        memcpy(vm->next_digest, p->digest, sizeof(vm->next_digest));
        adopt(p);
        plan_image_note(p);
        live_check(vm);
    }
    wrong = p->r < 0 && !plan_awaits_image(p);
    if (wrong && !streq_opt(vm->spec_error, p->err.text))
        log_vm_warning(vm->name, "its spec: %s", p->err.text);
    vm->contested = p->r < 0 && p->refusal == REFUSAL_BY_VMS;
    (void)str_set(&vm->spec_error, wrong ? p->err.text : NULL);
}

static void done(struct job *job);

static void ask_done(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);

    b->job.run = run_again;
    b->job.done = done;
    worker_add(b->manager->reader, &b->job);
}

static void done(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    struct manager *m = b->manager;

    if (first_waiting(b) && b->asked++ < ASKS_MAX) {
        b->job.run = ask;
        b->job.done = ask_done;
        worker_add(m->prober, &b->job);
        return;
    }
    for (size_t i = 0; i < b->n; i++)
        note(b->requests[i]);
    batch_free(b);
    m->checking--;
    planner_check(m);
}

/* NULL: none is due, or out of memory. */
static struct batch *collect(struct manager *m)
{
    auto_cleanup(batch_cleanup) struct batch *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->manager = m;
    b->job.run = run;
    b->job.done = done;
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (b->n == BATCH_MAX)
            break;
        if (!vm->check_due)
            continue;
        b->requests[b->n] = plan_request_new(vm, 0, NULL, NULL);
        if (!b->requests[b->n])
            break;
        vm->check_due = false;
        b->n++;
    }
    return b->n ? steal_ptr(&b) : NULL;
}

void planner_check(struct manager *m)
{
    struct batch *b;

    while (m->checking < BATCHES && !m->stopping && (b = collect(m))) {
        if (m->checked == 0)
            m->check_began_us = clock_mono_us();
        m->checking++;
        m->checked += b->n;
        worker_add(m->reader, &b->job);
    }
    if (m->checking > 0 || m->checked == 0)
        return;
    log_info("specs checked: %zu, in %.1f ms", m->checked, (double)(clock_mono_us() - m->check_began_us) / 1000.);
    m->checked = 0;
    (void)malloc_trim(0);
}

/* ---- ahead of it ---- */

struct ahead {
    struct job job;
    struct manager *manager;
};

static void ask_ahead(struct job *job)
{
    struct manager *m = container_of(job, struct ahead, job)->manager;
    const char *path = qemu_default_path();

    if (path)
        (void)qemu_cache_ask(m->qemus, path, false, NULL);
}

static void asked_ahead(struct job *job) { free(container_of(job, struct ahead, job)); }

void planner_warm(struct manager *m)
{
    struct ahead *ahead = calloc(1, sizeof(*ahead));

    if (!ahead)
        return;
    ahead->manager = m;
    ahead->job.run = ask_ahead;
    ahead->job.done = asked_ahead;
    worker_add(m->prober, &ahead->job);
}
