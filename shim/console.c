/* Viewers of the VM's first serial port.
 *
 * A viewer is a cursor in console.log, which QEMU itself writes: so a viewer that stalls loses nothing and stalls nobody, what it sees
 * is what the log has, and the backlog joins what follows by construction. A cursor is a position (lib/base/log_reader.h), which a rotation
 * doesn't change.
 *
 * QEMU's console socket is connected only while QEMU has input to read. Connected, it gets the output too: a reader that is slow holds up
 * the guest's serial port, and a QEMU that meets a full socket writes the byte it will try again to its log twice (chardev/char.c,
 * qemu_chr_write_buffer). The socket is full after some 280 bytes, since each byte is a write, so nothing may depend on how soon we are
 * scheduled: what was typed is written, our writing side is shut at once, and QEMU, which reads to the end of file however slowly its guest
 * takes it, hangs up by itself right behind the last byte. What is typed meanwhile goes by the next connection. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/log.h"
#include "lib/base/log_reader.h"
#include "lib/base/socket.h"
#include "lib/loop/stream.h"
#include "proto/launch.h"
#include "shim/vm.h"

enum {
    CHUNK = 32 * 1024, /* read from the log at a time; a viewer gets the next when it has taken this one */
    BACKLOG_MAX = 1024 * 1024,
    INPUT_QUEUE_MAX = 64 * 1024, /* input kept for a slow guest; viewers are read no further then */
    BATCH_MS = 10,               /* between two looks at a log that is written byte by byte */
};

struct viewer {
    struct viewer *next;
    struct vm *vm;
    struct stream *stream;
    struct deferred bury;
    uint64_t position; /* in the log */
};

struct console {
    struct vm *vm;
    struct viewer *viewers;
    struct log_reader log; /* this boot's console.log; fd -1: not there yet */
    ev_io changed;         /* inotify(7) on it */
    ev_timer batch;
    struct stream *port; /* to QEMU, for input; NULL: not connected */
    bool port_shut;      /* all was written to it, and QEMU hangs up when it has read that */
    char *typed;         /* since then */
    size_t typed_len;
};

static void viewer_free(struct viewer *v)
{
    stream_free(v->stream);
    loop_undefer(&v->bury);
    free(v);
}

static void bury(void *arg) { viewer_free(arg); }

/* ---- output: from the log ---- */

/* The viewer was slower than `keep` rotations, or somebody removed pieces: it is told and goes on with what there is. */
static ssize_t skip_lost(struct log_reader *log, struct viewer *v, char *chunk)
{
    uint64_t start, end, next;

    if (log_reader_range(log, &start, &end) < 0)
        return -EIO;
    next = v->position > end ? end : log_reader_next(log, v->position);
    if (next == v->position)
        return -EIO;
    v->position = next;
    return snprintf(chunk, CHUNK, "\r\n[holdfast: a part of the log is no longer kept]\r\n");
}

static void viewer_pump(struct viewer *v)
{
    struct log_reader *log = &v->vm->console->log;
    auto_free char *chunk = NULL;
    ssize_t n;

    if (log->fd < 0 || stream_queued(v->stream) > 0 || !(chunk = malloc(CHUNK)))
        return;
    while (stream_queued(v->stream) == 0 && (n = log_reader_read(log, v->position, chunk, CHUNK)) != 0) {
        if (n < 0) {
            n = skip_lost(log, v, chunk);
            if (n < 0)
                return;
        } else {
            v->position += (uint64_t)n;
        }
        if (stream_send(v->stream, chunk, (size_t)n) < 0)
            return;
    }
}

static void pump_all(struct console *c)
{
    for (struct viewer *v = c->viewers; v; v = v->next)
        viewer_pump(v);
}

static void on_changed(struct ev_loop *ev, ev_io *w, int revents)
{
    struct console *c = container_of(w, struct console, changed);
    char events[1024];

    while (read(w->fd, events, sizeof(events)) > 0)
        continue;
    pump_all(c);
    ev_io_stop(ev, w);
    ev_timer_again(ev, &c->batch);
}

static void on_batch(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct console *c = container_of(w, struct console, batch);

    ev_timer_stop(ev, w);
    ev_io_start(ev, &c->changed);
}

static void close_log(struct console *c)
{
    ev_io_stop(loop_ev(c->vm->loop), &c->changed);
    ev_timer_stop(loop_ev(c->vm->loop), &c->batch);
    c->changed.fd = fd_close(c->changed.fd);
    log_reader_close(&c->log);
}

static int open_log(struct console *c)
{
    auto_fd int notify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    auto_free char *path = NULL;
    int r;

    if (notify < 0)
        return -errno;
    r = log_reader_open(&c->log, c->vm->log_fd, FILE_CONSOLE_LOG);
    if (r == 0 && str_format(&path, "/proc/self/fd/%d", c->log.fd) < 0)
        r = -ENOMEM;
    if (r == 0 && inotify_add_watch(notify, path, IN_MODIFY) < 0)
        r = -errno;
    if (r < 0) {
        log_reader_close(&c->log);
        return r;
    }
    ev_io_init(&c->changed, on_changed, steal_fd(&notify), EV_READ);
    ev_io_start(loop_ev(c->vm->loop), &c->changed);
    return 0;
}

/* ---- input: to QEMU ---- */

static void port_close(struct console *c)
{
    stream_free(steal_ptr(&c->port));
    c->port_shut = false;
    free(steal_ptr(&c->typed));
    c->typed_len = 0;
}

/* Those that were stopped for what waited. */
static void read_viewers_on(struct console *c)
{
    for (struct viewer *v = c->viewers; v; v = v->next)
        stream_pause(v->stream, false);
}

static void port_shut_when_written(struct console *c)
{
    if (stream_queued(c->port) == 0 && shutdown(stream_fd(c->port), SHUT_WR) == 0)
        c->port_shut = true;
}

static void port_send(struct console *c, const char *data, size_t len);

static void on_port_output(void *arg, char *data, size_t len) {} /* the log has it */

static void on_port_drained(void *arg)
{
    struct console *c = arg;

    port_shut_when_written(c);
    read_viewers_on(c);
}

static void on_port_closed(void *arg, int error)
{
    struct console *c = arg;
    auto_free char *typed = steal_ptr(&c->typed);
    size_t len = c->typed_len;

    port_close(c);
    if (len > 0)
        port_send(c, typed, len);
    read_viewers_on(c);
}

static int port_open(struct console *c)
{
    int r, fd = socket_connect(c->vm->run_fd, FILE_CONSOLE_SOCKET);

    if (fd < 0)
        return fd;
    r = stream_new_take(c->vm->loop, fd,
                        &(struct stream_config){
                            .delimiter = STREAM_RAW,
                            .out_max = 2 * INPUT_QUEUE_MAX,
                            .on_frame = on_port_output,
                            .on_close = on_port_closed,
                            .on_drained = on_port_drained,
                            .arg = c,
                        },
                        &c->port);
    if (r < 0)
        fd_close(fd);
    return r;
}

static void keep_typed(struct console *c, const char *data, size_t len)
{
    char *longer = realloc(c->typed, c->typed_len + len);

    if (!longer)
        return;
    memcpy(longer + c->typed_len, data, len);
    c->typed = longer;
    c->typed_len += len;
}

static void port_send(struct console *c, const char *data, size_t len)
{
    if (c->vm->qemu.ref.pid == 0 || (!c->port && port_open(c) < 0))
        return; /* typed at a VM that isn't there */
    if (c->port_shut)
        keep_typed(c, data, len);
    else if (stream_send(c->port, data, len) >= 0)
        port_shut_when_written(c);
}

static void on_viewer_input(void *arg, char *data, size_t len)
{
    struct viewer *v = arg;
    struct console *c = v->vm->console;

    port_send(c, data, len);
    if (c->typed_len > INPUT_QUEUE_MAX || (c->port && stream_queued(c->port) > INPUT_QUEUE_MAX))
        stream_pause(v->stream, true);
}

/* ---- viewers come and go, QEMUs too ---- */

static void on_viewer_drained(void *arg) { viewer_pump(arg); }

static void on_viewer_closed(void *arg, int error)
{
    struct viewer *v = arg;
    struct vm *vm = v->vm;
    struct viewer **p = &vm->console->viewers;

    while (*p != v)
        p = &(*p)->next;
    *p = v->next;
    loop_defer(vm->loop, &v->bury, bury, v);
    if (!vm->console->viewers)
        close_log(vm->console);
    vm_tell(vm, EVENT_CONSOLE, NULL, "a viewer left the console");
}

static struct console *console_new(struct vm *vm)
{
    struct console *c = calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->vm = vm;
    c->log = LOG_READER_NONE;
    c->changed.fd = -1;
    ev_init(&c->batch, on_batch);
    c->batch.repeat = BATCH_MS / 1000.0;
    return c;
}

void vm_console_attach_take(struct vm *vm, int fd, char *rest, size_t rest_len, uint64_t backlog)
{
    auto_free char *typed = rest;
    struct viewer *v = calloc(1, sizeof(*v));
    uint64_t start = 0, end = 0;

    if (!vm->console)
        vm->console = console_new(vm);
    if (!v || !vm->console ||
        stream_new_take(vm->loop, fd,
                        &(struct stream_config){
                            .delimiter = STREAM_RAW,
                            .out_max = 2 * CHUNK,
                            .on_frame = on_viewer_input,
                            .on_close = on_viewer_closed,
                            .on_drained = on_viewer_drained,
                            .arg = v,
                        },
                        &v->stream) < 0) {
        free(v);
        fd_close(fd);
        return;
    }
    if (backlog > BACKLOG_MAX)
        backlog = BACKLOG_MAX;
    v->vm = vm;
    if (vm->console->log.fd < 0)
        (void)open_log(vm->console); /* not there before the first launch: vm_console_begin_boot() tries again */
    if (vm->console->log.fd >= 0)
        (void)log_reader_range(&vm->console->log, &start, &end);
    v->position = backlog < end - start ? end - backlog : start;
    v->next = vm->console->viewers;
    vm->console->viewers = v;
    vm_tell(vm, EVENT_CONSOLE, NULL, "a viewer came to the console");
    viewer_pump(v);
    if (rest_len > 0)
        on_viewer_input(v, typed, rest_len);
}

void vm_console_begin_boot(struct vm *vm)
{
    struct console *c = vm->console;
    int r;

    if (!c || !c->viewers)
        return;
    pump_all(c);
    close_log(c);
    r = open_log(c);
    if (r < 0)
        log_vm_warning(vm->plan.name, "viewers of the console see nothing: %s: %s", FILE_CONSOLE_LOG, strerror(-r));
    for (struct viewer *v = c->viewers; v; v = v->next)
        v->position = 0;
    pump_all(c);
}

void vm_console_end_boot(struct vm *vm)
{
    if (!vm->console)
        return;
    port_close(vm->console);
    read_viewers_on(vm->console);
    pump_all(vm->console);
}

void vm_console_clear(struct vm *vm)
{
    struct viewer *v;

    if (!vm->console)
        return;
    port_close(vm->console);
    close_log(vm->console);
    while ((v = vm->console->viewers)) {
        vm->console->viewers = v->next;
        viewer_free(v);
    }
    free(steal_ptr(&vm->console));
}
