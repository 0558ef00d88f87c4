#include "lib/images/task.h"

#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"

enum { BURST_US = 100 * 1000 }; /* what may come at once after a pause */

int image_task_init(struct image_task *task, struct rate_limiter *limiter)
{
    task->limiter = limiter;
    task->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    atomic_store(&task->phase, "waiting");
    return task->cancel_fd < 0 ? -errno : 0;
}

void image_task_cancel(struct image_task *task)
{
    const uint64_t one = 1;

    atomic_store(&task->cancelled, true);
    (void)fd_write_all(task->cancel_fd, &one, sizeof(one));
}

void image_task_clear(struct image_task *task) { task->cancel_fd = fd_close(task->cancel_fd); }

int image_task_cancelled(struct err *err) { return err_set(err, ECANCELED, "cancelled", "cancelled"); }

int image_task_wait(const struct image_task *task, uint64_t ms)
{
    struct pollfd pollfd = { .fd = task->cancel_fd, .events = POLLIN };
    uint64_t until = clock_mono_us() + ms * 1000, now;

    while (!image_task_is_cancelled(task)) {
        now = clock_mono_us();
        if (now >= until)
            return 0;
        (void)poll(&pollfd, 1, (int)((until - now + 999) / 1000));
    }
    return -ECANCELED;
}

int image_task_pace(const struct image_task *task, uint64_t bytes)
{
    struct rate_limiter *l = task->limiter;
    uint64_t rate = task->config->rate_limit, now, wait_us;

    if (!rate)
        return image_task_is_cancelled(task) ? -ECANCELED : 0;
    now = clock_mono_us();
    pthread_mutex_lock(&l->mutex);
    if (l->free_us + BURST_US < now)
        l->free_us = now - BURST_US;
    l->free_us += bytes * 1000000 / rate;
    wait_us = l->free_us > now ? l->free_us - now : 0;
    pthread_mutex_unlock(&l->mutex);
    return image_task_wait(task, (wait_us + 999) / 1000);
}
