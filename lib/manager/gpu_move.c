#include "lib/manager/gpu_move.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/base/pidref.h"
#include "lib/loop/worker.h"
#include "lib/manager/records.h"
#include "lib/manager/registry.h"
#include "lib/manager/state.h"

struct gpu_move {
    struct job job;
    struct gpu_move *next, **prev_next;
    struct manager *manager;
    struct worker *worker; /* its own */
    struct deferred end;
    struct vm *vm; /* referenced; NULL: of a VM that is no more */
    char *name;
    bool take;
    struct gpu_wish wish;
    void (*done)(struct vm *vm, int r, const struct err *err); /* NULL: nobody waits */
    int r;
    struct err err;
};

static void move_free(struct gpu_move *move)
{
    *move->prev_next = move->next;
    if (move->next)
        move->next->prev_next = move->prev_next;
    loop_undefer(&move->end);
    worker_free(move->worker);
    if (move->vm)
        vm_unref(move->vm);
    gpu_wish_clear(&move->wish);
    free(move->name);
    free(move);
}

static void run_take(struct job *job)
{
    struct gpu_move *move = container_of(job, struct gpu_move, job);

    move->r = gpus_take(move->manager->gpus, move->name, &move->wish, &move->err);
    if (move->r < 0)
        err_from(&move->err, move->r, "taking the VM's PCI devices from their drivers");
}

static void run_give_back(struct job *job)
{
    struct gpu_move *move = container_of(job, struct gpu_move, job);
    const struct record_dirs dirs = { move->manager->run_vms_fd, move->manager->state_vms_fd };

    if (records_vm_may_live(&dirs, move->name))
        move->r = err_set(&move->err, EBUSY, "alive", "something of the VM lives, so its PCI devices stay with it");
    else
        move->r = gpus_give_back(move->manager->gpus, move->name, &move->err);
    if (move->r < 0)
        err_from(&move->err, move->r, "giving its PCI devices back");
}

static void end(void *arg)
{
    struct gpu_move *move = arg;

    (void)worker_stop(move->worker, UINT64_MAX); /* its one job is done */
    move_free(move);
}

static void moved(struct job *job)
{
    struct gpu_move *move = container_of(job, struct gpu_move, job);
    struct vm *vm = move->vm;

    if (move->r < 0 && !move->done)
        log_vm_error(move->name, "%s", move->err.text);
    else if (move->r >= 0 && !move->take)
        log_vm_info(move->name, "its PCI devices are back with their drivers");
    if (vm) {
        vm->gpu_move = NULL;
        if (move->done && !vm->gone_from_registry)
            move->done(vm, move->r, &move->err);
        if (!vm->gone_from_registry && !vm->manager->stopping)
            vm_changed(vm);
    }
    /* Not from within its own worker. */
    loop_defer(move->manager->loop, &move->end, end, move);
}

static int begin(struct manager *m, struct vm *vm, const char *name, bool take, struct gpu_move **ret_move)
{
    struct gpu_move *move = calloc(1, sizeof(*move));

    if (!move)
        return -ENOMEM;
    move->manager = m;
    move->take = take;
    move->job.run = take ? run_take : run_give_back;
    move->job.done = moved;
    int r = str_set(&move->name, name);
    if (r >= 0)
        r = worker_new(m->loop, 1, &move->worker);
    if (r < 0) {
        free(move->name);
        free(move);
        return r;
    }
    move->next = m->gpu_moves;
    move->prev_next = &m->gpu_moves;
    if (move->next)
        move->next->prev_next = &move->next;
    m->gpu_moves = move;
    if (vm) {
        move->vm = vm_ref(vm);
        vm->gpu_move = move;
    }
    *ret_move = move;
    return 0;
}

int gpu_move_take(struct vm *vm, struct gpu_wish *wish, void (*done)(struct vm *vm, int r, const struct err *err))
{
    struct gpu_move *move;

    int r = begin(vm->manager, vm, vm->name, true, &move);
    if (r < 0)
        return r;
    move->wish = *wish;
    *wish = (struct gpu_wish){ 0 };
    move->done = done;
    worker_add(move->worker, &move->job);
    return 0;
}

void gpu_move_abandon(struct vm *vm)
{
    if (vm->gpu_move)
        vm->gpu_move->done = NULL;
}

static void give_back(struct manager *m, struct vm *vm, const char *name)
{
    struct gpu_move *move;

    int r = begin(m, vm, name, false, &move);
    if (r < 0)
        log_vm_error(name, "its PCI devices can't be given back now: %s", strerror(-r));
    else
        worker_add(move->worker, &move->job);
}

void gpu_move_settle(struct vm *vm)
{
    if (!vm->gpu_move && !vm->launch && gpus_has(vm->manager->gpus, vm->name))
        give_back(vm->manager, vm, vm->name);
}

void gpu_move_sweep(struct manager *m)
{
    auto_strv struct strv owners = { 0 };

    if (gpus_owners(m->gpus, &owners) < 0)
        return;
    for (size_t i = 0; i < owners.n; i++)
        if (!registry_find(m, owners.items[i]))
            give_back(m, NULL, owners.items[i]);
}

bool gpu_moves_stop(struct manager *m, uint64_t grace_ms)
{
    while (m->gpu_moves) {
        if (!worker_stop(m->gpu_moves->worker, grace_ms))
            return false;
        move_free(m->gpu_moves);
    }
    return true;
}
