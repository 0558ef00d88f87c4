#include "lib/manager/events.h"

#include <errno.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/log.h"
#include "lib/manager/event_log.h"
#include "lib/manager/follow.h"
#include "lib/manager/records.h"
#include "lib/manager/state.h"
#include "lib/manager/wait.h"

/* Appends that wait for a slow disk; beyond it events are not written down (and said so), rather than kept in memory without end. */
enum { EVENTS_PENDING_MAX = 10000 };

struct append_job {
    struct job job;
    struct vm *vm;
    char *line;
    size_t len;
    int r;
};

static void run(struct job *job)
{
    struct append_job *a = container_of(job, struct append_job, job);
    const struct record_dirs dirs = { a->vm->manager->run_vms_fd, a->vm->manager->state_vms_fd };
    auto_fd int fd = -1;

    fd = dir_open(dirs.state_vms_fd, a->vm->name);
    if (fd == -ENOENT)
        fd = records_state_dir(&dirs, a->vm->name);
    a->r = fd < 0 ? fd : event_log_append(fd, a->line, a->len);
}

static void done(struct job *job)
{
    struct append_job *a = container_of(job, struct append_job, job);

    a->vm->manager->events_pending--;
    if (a->r < 0)
        log_vm_error(a->vm->name, "can't write %s: %s", FILE_EVENTS, strerror(-a->r));
    vm_unref(a->vm);
    free(a->line);
    free(a);
}

static int append(struct vm *vm, const json_t *event)
{
    struct manager *m = vm->manager;
    struct append_job *a;
    int r;

    if (m->events_pending >= EVENTS_PENDING_MAX)
        return -ENOBUFS;
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    r = json_format(event, &a->line, &a->len);
    if (r < 0) {
        free(a);
        return r;
    }
    a->job.run = run;
    a->job.done = done;
    a->vm = vm_ref(vm);
    m->events_pending++;
    worker_add(m->writer, &a->job);
    return 0;
}

void events_received(struct vm *vm, const json_t *event)
{
    json_int_t seq = json_integer_value(json_object_get(event, "seq"));
    const char *text = json_string_value(json_object_get(event, "text"));
    int r;

    if (seq <= 0 || (uint64_t)seq <= vm->event_seq || vm->gone_from_registry)
        return;
    vm->event_seq = (uint64_t)seq;
    r = append(vm, event);
    if (r < 0)
        log_vm_error(vm->name, "event %lld is not written down: %s", (long long)seq, strerror(-r));
    follow_publish(vm->manager, vm->name, event);
    if (text)
        waiters_progress(vm, text);
}

void events_gap(struct vm *vm, uint64_t lost, uint64_t next)
{
    log_vm_warning(vm->name, "%llu events are lost before number %llu", (unsigned long long)lost, (unsigned long long)next);
    follow_publish_gap(vm->manager, vm->name, lost);
}
