#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/pidfd.h>
#include <sys/wait.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/spawn.h"

/* One captured stream: what fits is kept, the rest read and dropped so that the child never blocks on us. */
struct capture {
    int fd;
    char *data;
    size_t len;
    size_t limit;
};

static void capture_done(struct capture *c)
{
    fd_close(c->fd);
    free(c->data);
}
#define auto_capture auto_cleanup(capture_done)

static int capture_open(struct capture *c, size_t limit, int *ret_write)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    c->fd = fds[0];
    *ret_write = fds[1];
    c->limit = limit;
    c->data = calloc(1, 1);
    if (!c->data)
        return -ENOMEM;
    return fd_set_nonblock(c->fd, true);
}

/* Reads what is there. At the end of the stream the fd is closed. */
static int capture_read(struct capture *c)
{
    char buf[16 * 1024];
    while (c->fd >= 0) {
        ssize_t n = read(c->fd, buf, sizeof(buf));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0) {
            c->fd = fd_close(c->fd);
            return 0;
        }
        size_t room = c->limit - c->len, take = (size_t)n < room ? (size_t)n : room;
        if (take == 0)
            continue;
        char *data = realloc(c->data, c->len + take + 1);
        if (!data)
            return -ENOMEM;
        memcpy(data + c->len, buf, take);
        c->len += take;
        data[c->len] = '\0';
        c->data = data;
    }
    return 0;
}

static int time_left(uint64_t deadline_us)
{
    if (!deadline_us)
        return -1;
    uint64_t now = clock_mono_us();
    return now >= deadline_us ? 0 : (int)((deadline_us - now + 999) / 1000);
}

/* Until the child has ended. What it left behind may hold the pipes for ever, so its end counts, not theirs. */
static int follow(int pidfd, struct capture *out, struct capture *err, int timeout_ms)
{
    uint64_t deadline = timeout_ms < 0 ? 0 : clock_mono_us() + (uint64_t)timeout_ms * 1000;
    for (;;) {
        struct pollfd fds[] = {
            { .fd = pidfd, .events = POLLIN },
            { .fd = out->fd, .events = POLLIN },
            { .fd = err->fd, .events = POLLIN },
        };
        int n = poll(fds, ARRAY_LEN(fds), time_left(deadline));
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return -ETIMEDOUT;
        int r = capture_read(out);
        if (r >= 0)
            r = capture_read(err);
        if (r < 0)
            return r;
        if (n > 0 && fds[0].revents) {
            /* Written before it ended, maybe after we read. */
            r = capture_read(out);
            return r < 0 ? r : capture_read(err);
        }
        if (deadline && time_left(deadline) == 0)
            return -ETIMEDOUT; /* also when it never stops writing */
    }
}

static int reap(pid_t pid, int *ret_wstatus)
{
    while (waitpid(pid, ret_wstatus, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return 0;
}

/* The caller's wishes plus the two pipes. */
static int start(const struct spawn *spawn, int out, int err, pid_t *ret_pid)
{
    struct spawn_fd fds[SPAWN_FDS_MAX];
    if (spawn->n_fds + 2 > ARRAY_LEN(fds))
        return -EINVAL;
    for (size_t i = 0; i < spawn->n_fds; i++)
        fds[i] = spawn->fds[i];
    fds[spawn->n_fds] = (struct spawn_fd){ out, STDOUT_FILENO };
    fds[spawn->n_fds + 1] = (struct spawn_fd){ err, STDERR_FILENO };
    struct spawn mine = *spawn;
    mine.fds = fds;
    mine.n_fds = spawn->n_fds + 2;
    mine.new_group = true;
    return spawn_child(&mine, ret_pid);
}

int spawn_capture(const struct spawn *spawn, int timeout_ms, size_t limit, struct spawn_output *ret_output)
{
    auto_capture struct capture out = { .fd = -1 };
    auto_capture struct capture err = { .fd = -1 };
    auto_fd int out_write = -1, err_write = -1;
    int r = capture_open(&out, limit, &out_write);
    if (r >= 0)
        r = capture_open(&err, limit, &err_write);
    pid_t pid = 0;
    if (r >= 0)
        r = start(spawn, out_write, err_write, &pid);
    if (r < 0)
        return r;
    out_write = fd_close(out_write);
    err_write = fd_close(err_write);
    auto_fd int pidfd = pidfd_open(pid, 0);
    r = pidfd < 0 ? -errno : follow(pidfd, &out, &err, timeout_ms);
    /* Not reaped yet, so the group's number is still its own. With SIGCHLD ignored it may be gone: then there is nothing to kill. */
    if (r < 0 && r != -ESRCH)
        kill(-pid, SIGKILL);
    int wstatus = 0;
    int reaped = reap(pid, &wstatus);
    if (r < 0 || reaped < 0)
        return reaped == -ECHILD ? -ECHILD : r < 0 ? r : reaped;
    *ret_output = (struct spawn_output){ .wstatus = wstatus, .out = steal_ptr(&out.data), .err = steal_ptr(&err.data) };
    return 0;
}

void spawn_output_done(struct spawn_output *o)
{
    free(o->out);
    free(o->err);
    *o = (struct spawn_output){ 0 };
}
