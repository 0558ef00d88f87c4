#include "cmd/vmctl/parallel.h"

#include <errno.h>
#include <poll.h>

#include "cmd/vmctl/output.h"
#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/socket.h"

enum {
    TICK_US = 1000 * 1000,
    RETRY_US = 20 * 1000,       /* a full queue of connections is tried again after so long… */
    RETRY_MAX_US = 1000 * 1000, /* … for so long */
};

struct task *tasks_new(char *const *names, size_t n)
{
    struct task *tasks = must(calloc(n + 1, sizeof(*tasks)));

    for (size_t i = 0; i < n; i++)
        tasks[i].name = names[i];
    return tasks;
}

void tasks_free(struct task *tasks, size_t n)
{
    for (size_t i = 0; tasks && i < n; i++) {
        varlink_client_free(tasks[i].client);
        json_decref(tasks[i].reply);
        free(tasks[i].error);
        free(tasks[i].progress);
    }
    free(tasks);
}

static void task_end(struct parallel *p, struct task *t, int result)
{
    t->phase = TASK_ENDED;
    t->result = result;
    if (result == -EREMOTEIO)
        t->error = must(strdup(varlink_client_error(t->client)));
    varlink_client_free(t->client);
    t->client = NULL;
    if (p->ended)
        p->ended(p->arg, t);
}

/* Connects and sends. Leaves the task waiting when the other side's queue of connections is full for the moment. */
static void task_begin(struct parallel *p, struct task *t)
{
    auto_free char *path = p->socket(p->arg, t);
    uint64_t now = clock_mono_us();

    if (!t->begun_us)
        t->begun_us = now;
    t->err = ERR_INIT;
    /* Not varlink_client_connect(): it waits for one whose queue is full, and the others would wait with it. */
    auto_fd int fd = socket_connect_path(path);
    int r = fd < 0 ? fd : varlink_client_new_take(fd, &t->client);
    bool in_time = p->timeout_ms < 0 || now < t->begun_us + (uint64_t)p->timeout_ms * 1000;
    if (r == -EAGAIN && now < t->begun_us + RETRY_MAX_US && in_time)
        return;
    t->connected = r >= 0;
    if (r < 0)
        err_set_errno(&t->err, -r, "not-reachable", "cannot connect to %s", path);
    else
        steal_fd(&fd);
    if (r >= 0)
        r = varlink_client_more_consume(t->client, p->method, p->parameters(p->arg, t), &t->err);
    if (r < 0)
        task_end(p, t, r);
    else
        t->phase = TASK_OPEN;
}

/* Milliseconds the task may still take, -1 for any. */
static int task_left_ms(const struct parallel *p, const struct task *t)
{
    if (p->timeout_ms < 0)
        return -1;
    int64_t left_us = (int64_t)t->begun_us + p->timeout_ms * 1000 - (int64_t)clock_mono_us();
    return left_us <= 0 ? 0 : (int)((left_us + 999) / 1000);
}

/* Takes what arrived, without waiting for the rest of a message: the next poll(2) does that. */
static void task_read(struct parallel *p, struct task *t)
{
    do {
        json_t *reply = NULL;
        t->err = ERR_INIT;
        int r = varlink_client_next(t->client, 0, &reply, &t->err);
        if (r == -ETIMEDOUT)
            return;
        if (reply) {
            json_decref(t->reply);
            t->reply = reply;
        }
        if (r == 1 && (!p->progress || p->progress(p->arg, t, reply)))
            r = 0;
        if (r != 1)
            task_end(p, t, r);
    } while (t->phase == TASK_OPEN && varlink_client_pending(t->client));
}

static void begin_more(struct parallel *p, size_t *n_open)
{
    for (size_t i = 0; i < p->n && *n_open < PARALLEL_MAX; i++) {
        if (p->tasks[i].phase != TASK_WAITING)
            continue;
        task_begin(p, &p->tasks[i]);
        *n_open += p->tasks[i].phase == TASK_OPEN;
    }
}

/* Fills `fds` with the open connections; how long to wait for them. */
static int poll_prepare(struct parallel *p, struct pollfd *fds, struct task **open, size_t *ret_n, uint64_t tick_at)
{
    uint64_t now = clock_mono_us();
    int wait_ms = -1;
    size_t n = 0;

    if (p->tick)
        wait_ms = tick_at > now ? (int)((tick_at - now) / 1000 + 1) : 0;
    for (size_t i = 0; i < p->n; i++) {
        struct task *t = &p->tasks[i];
        int left = -1;
        if (t->phase == TASK_WAITING && t->begun_us) {
            left = RETRY_US / 1000;
        } else if (t->phase == TASK_OPEN && n < PARALLEL_MAX) {
            left = varlink_client_pending(t->client) ? 0 : task_left_ms(p, t);
            open[n] = t;
            fds[n++] = (struct pollfd){ .fd = varlink_client_fd(t->client), .events = POLLIN };
        }
        if (left >= 0 && (wait_ms < 0 || left < wait_ms))
            wait_ms = left;
    }
    *ret_n = n;
    return wait_ms;
}

void parallel_run(struct parallel *p)
{
    struct pollfd fds[PARALLEL_MAX];
    struct task *open[PARALLEL_MAX];
    uint64_t tick_at = clock_mono_us() + TICK_US;
    size_t n_open;

    for (;;) {
        size_t n = 0, n_left = 0;
        n_open = 0;
        for (size_t i = 0; i < p->n; i++)
            n_open += p->tasks[i].phase == TASK_OPEN;
        begin_more(p, &n_open);
        for (size_t i = 0; i < p->n; i++)
            n_left += p->tasks[i].phase != TASK_ENDED;
        if (!n_left)
            return;
        int wait_ms = poll_prepare(p, fds, open, &n, tick_at);
        if (poll(fds, n, wait_ms) < 0 && errno != EINTR)
            must(NULL);
        for (size_t i = 0; i < n; i++) {
            if (fds[i].revents || varlink_client_pending(open[i]->client))
                task_read(p, open[i]);
            if (open[i]->phase == TASK_OPEN && task_left_ms(p, open[i]) == 0) {
                err_set(&open[i]->err, ETIMEDOUT, "timed-out", "no answer in time");
                task_end(p, open[i], -ETIMEDOUT);
            }
        }
        if (p->tick && clock_mono_us() >= tick_at) {
            p->tick(p->arg);
            tick_at = clock_mono_us() + TICK_US;
        }
    }
}
