/* planner_check(): many specs are checked in one job, so that what is given to them is one write. */
#include <errno.h>
#include <malloc.h>

#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/manager/allocations.h"
#include "lib/manager/live.h"
#include "lib/manager/planner.h"
#include "lib/manager/state.h"

enum {
    BATCH_MAX = 128, /* long enough for few writes, short enough for the loop not to be held up by its end */
    BATCHES = 2,     /* at a time: one reader is left for those who wait */
};

struct batch {
    struct job job;
    struct manager *manager;
    size_t n;
    struct plan_request *requests[BATCH_MAX];
};

static void batch_free(struct batch *b)
{
    for (size_t i = 0; i < b->n; i++)
        plan_request_free(b->requests[i]);
    free(b);
}
DEFINE_CLEANUP(struct batch *, batch, batch_free)

static void run(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    auto_free struct spec *specs = calloc(b->n, sizeof(*specs));
    int committed;

    for (size_t i = 0; i < b->n; i++) {
        if (specs)
            plan_begin(b->requests[i], &specs[i]);
        else
            b->requests[i]->r = -ENOMEM;
    }
    committed = specs ? allocations_commit(b->manager->allocations) : 0;
    for (size_t i = 0; specs && i < b->n; i++) {
        plan_end(b->requests[i], &specs[i], committed);
        spec_clear(&specs[i]);
    }
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

    if (vm->gone_from_registry || vm->spec_second)
        return;
    if (p->r >= 0) {
        memcpy(vm->next_digest, p->digest, sizeof(vm->next_digest));
        adopt(p);
        live_check(vm);
    }
    wrong = p->r < 0 && !plan_awaits_image(p);
    if (wrong && !streq_opt(vm->spec_error, p->err.text))
        log_vm_warning(vm->name, "its spec: %s", p->err.text);
    vm->contested = p->r < 0 && p->refusal == REFUSAL_BY_VMS;
    (void)str_set(&vm->spec_error, wrong ? p->err.text : NULL);
}

static void check_done(struct plan_request *p)
{
    struct manager *m = p->vm->manager;

    note(p);
    plan_request_free(p);
    m->checking--;
    m->check_asks = false;
    planner_check(m);
}

static void done(struct job *job)
{
    struct batch *b = container_of(job, struct batch, job);
    struct manager *m = b->manager;
    bool asks = false;

    for (size_t i = 0; i < b->n; i++) {
        struct plan_request *p = b->requests[i];

        if (p->r != -EAGAIN) {
            note(p);
        } else if (asks || m->check_asks) { /* once it is known for one, it is for all that have the same */
            p->vm->check_due = true;
            m->checked--;
        } else {
            asks = true;
            b->requests[i] = NULL;
            m->checking++;
            m->check_asks = true;
            plan_request_finish(p);
        }
    }
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
        b->requests[b->n] = plan_request_new(vm, 0, check_done, NULL);
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

    while (m->checking < BATCHES && !m->check_asks && !m->stopping && (b = collect(m))) {
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
