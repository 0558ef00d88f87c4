#include "shim/probe.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <regex.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"
#include "lib/base/log_reader.h"
#include "lib/base/parse.h"
#include "lib/base/spawn.h"
#include "lib/loop/stream.h"
#include "proto/launch.h"
#include "shim/agent_call.h"
#include "shim/privileges.h"
#include "shim/vm.h"

enum {
    RESPONSE_MAX = 64 * 1024, /* of an HTTP response, what status and match are looked for in */
    TCP_STEADY_MS = 250,      /* a forward of QEMU's user network accepts for a guest that refuses, and hangs up a moment later */
    LOG_WINDOW = 256 * 1024,  /* of the console log, what one look takes in */
};

struct probe_attempt {
    struct vm *vm;
    const struct plan_probe *probe;
    void (*done)(void *arg, const char *why);
    void *arg;
    ev_timer timeout; /* the whole attempt */
    ev_timer steady;  /* tcp */
    ev_io connecting;
    struct stream *stream;
    struct agent_call *agent;
    char *response; /* http: what came so far */
    size_t response_len;
    struct pidref child;
    struct pidwatch watch;
    bool *qmp_orphaned; /* set to true when a QMP answer is still to come and we are gone */
};

static void finish(struct probe_attempt *a, const char *why)
{
    ev_timer_stop(loop_ev(a->vm->loop), &a->timeout);
    ev_timer_stop(loop_ev(a->vm->loop), &a->steady);
    a->done(a->arg, why);
}

static void finish_errno(struct probe_attempt *a, const char *what, int code)
{
    char why[160];

    (void)snprintf(why, sizeof(why), "%s: %s", what, strerror(code));
    finish(a, why);
}

static void on_timeout(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct probe_attempt *a = container_of(w, struct probe_attempt, timeout);
    char text[DURATION_TEXT_MAX], why[64];

    (void)snprintf(why, sizeof(why), "no answer within %s", format_duration(a->probe->timeout_ms, text));
    finish(a, why);
}

/* ---- tcp, http ---- */

static void on_steady(struct ev_loop *ev, ev_timer *w, int revents) { finish(container_of(w, struct probe_attempt, steady), NULL); }

static void tcp_closed(void *arg, int error)
{
    struct probe_attempt *a = arg;

    finish_errno(a, "connected, then hung up", error ? -error : ECONNRESET);
}

static void tcp_data(void *arg, char *data, size_t len) { finish(arg, NULL); /* whoever speaks, lives */ }

/* Whether the status line is the wanted one; *ret_body is set to what follows the headers. */
static bool http_status_ok(const struct plan_probe *probe, char *response, const char **ret_body)
{
    char *code = strchr(response, ' '), *body = strstr(response, "\r\n\r\n");
    uint64_t status;
    char digits[4] = "";

    if (strncmp(response, "HTTP/", 5) != 0 || !code || strlen(code) < 4)
        return false;
    memcpy(digits, code + 1, 3);
    if (parse_u64(digits, 100, 599, &status) < 0)
        return false;
    *ret_body = body ? body + 4 : "";
    return probe->status ? status == probe->status : status >= 200 && status <= 299;
}

static void http_closed(void *arg, int error)
{
    struct probe_attempt *a = arg;
    const char *body;
    char why[160], *end;

    if (a->response_len == 0) {
        finish_errno(a, "no HTTP response", error ? -error : ECONNRESET);
        return;
    }
    if (!http_status_ok(a->probe, a->response, &body)) {
        end = a->response + strcspn(a->response, "\r\n");
        *end = '\0';
        (void)snprintf(why, sizeof(why), "answered %.100s", a->response);
        finish(a, why);
        return;
    }
    if (a->probe->match && !strstr(body, a->probe->match)) {
        finish(a, "the body doesn't hold the text to match");
        return;
    }
    finish(a, NULL);
}

static int response_add(struct probe_attempt *a, const char *data, size_t len)
{
    char *more;

    if (a->response_len + len > RESPONSE_MAX)
        len = RESPONSE_MAX - a->response_len;
    more = realloc(a->response, a->response_len + len + 1);
    if (!more)
        return -ENOMEM;
    a->response = more;
    memcpy(more + a->response_len, data, len);
    a->response_len += len;
    more[a->response_len] = '\0';
    return a->response_len == RESPONSE_MAX ? 1 : 0;
}

static void http_data(void *arg, char *data, size_t len)
{
    if (response_add(arg, data, len) != 0)
        http_closed(arg, 0); /* enough to judge by */
}

static int speak_tcp(struct probe_attempt *a, int fd_take)
{
    bool http = a->probe->kind == PROBE_HTTP;
    auto_free char *request = NULL;
    int r = stream_new_take(a->vm->loop, fd_take,
                            &(struct stream_config){
                                .delimiter = STREAM_RAW,
                                .out_max = 4096,
                                .on_frame = http ? http_data : tcp_data,
                                .on_close = http ? http_closed : tcp_closed,
                                .arg = a,
                            },
                            &a->stream);

    if (r < 0) {
        fd_close(fd_take);
        return r;
    }
    if (!http) {
        ev_timer_start(loop_ev(a->vm->loop), &a->steady);
        return 0;
    }
    r = str_format(&request, "GET %s HTTP/1.0\r\nHost: %s\r\nUser-Agent: holdfast\r\nConnection: close\r\n\r\n", a->probe->path,
                   a->probe->host);
    return r < 0 ? r : stream_send(a->stream, request, strlen(request));
}

static void on_connected(struct ev_loop *ev, ev_io *w, int revents)
{
    struct probe_attempt *a = container_of(w, struct probe_attempt, connecting);
    socklen_t size = sizeof(int);
    int fd = w->fd, error = 0;

    ev_io_stop(ev, w);
    w->fd = -1;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
        error = errno;
    if (error) {
        fd_close(fd);
        finish_errno(a, "can't connect", error);
        return;
    }
    error = -speak_tcp(a, fd);
    if (error > 0)
        finish_errno(a, "can't speak", error);
}

static int begin_tcp(struct probe_attempt *a)
{
    struct addrinfo hints = { .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV, .ai_socktype = SOCK_STREAM }, *to = NULL;
    auto_fd int fd = -1;
    char port[8];
    int r;

    /* Addresses in figures: no name is looked up, so nothing blocks. */
    (void)snprintf(port, sizeof(port), "%u", (unsigned)a->probe->port);
    if (getaddrinfo(a->probe->host, port, &hints, &to) != 0)
        return -EINVAL;
    fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    r = fd < 0 || (connect(fd, to->ai_addr, to->ai_addrlen) < 0 && errno != EINPROGRESS) ? -errno : 0;
    freeaddrinfo(to);
    if (r < 0)
        return r;
    ev_io_init(&a->connecting, on_connected, steal_fd(&fd), EV_WRITE);
    ev_io_start(loop_ev(a->vm->loop), &a->connecting);
    return 0;
}

/* ---- qmp ---- */

struct qmp_wait {
    struct probe_attempt *attempt;
    bool orphaned;
};

static void qmp_done(void *arg, const struct qmp_result *r)
{
    struct qmp_wait *wait = arg;

    if (!wait->orphaned) {
        wait->attempt->qmp_orphaned = NULL;
        finish(wait->attempt, r->failure == 0 ? NULL : r->text);
    }
    free(wait);
}

static int begin_qmp(struct probe_attempt *a)
{
    struct qmp_wait *wait = calloc(1, sizeof(*wait));
    int r;

    if (!wait)
        return -ENOMEM;
    wait->attempt = a;
    r = a->vm->qemu.qmp_ready ? qmp_client_call(a->vm->qemu.qmp, "query-status", NULL, a->probe->timeout_ms, qmp_done, wait) : -ENOTCONN;
    if (r < 0)
        free(wait);
    else
        a->qmp_orphaned = &wait->orphaned;
    return r;
}

/* ---- agent ---- */

static void agent_done(void *arg, const char *why) { finish(arg, why); }

static int begin_agent(struct probe_attempt *a) { return agent_call(a->vm, "guest-ping", agent_done, a, &a->agent); }

/* ---- exec ---- */

static int reap_child(struct probe_attempt *a, int options)
{
    siginfo_t info = { 0 };

    if (waitid(P_PIDFD, (id_t)a->child.fd, &info, WEXITED | options) < 0 || info.si_pid == 0)
        return -ECHILD;
    tree_forget(&a->vm->tree, a->child.pid);
    pidref_done(&a->child);
    return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
}

static void on_child_exited(struct pidwatch *w)
{
    struct probe_attempt *a = w->arg;
    char why[64];
    int status;

    pidwatch_stop(w);
    status = reap_child(a, 0);
    (void)snprintf(why, sizeof(why), "the command ended with %d", status);
    finish(a, status == 0 ? NULL : why);
}

static int begin_exec(struct probe_attempt *a)
{
    auto_free char *name = NULL;
    char *env[] = { NULL, NULL, NULL };
    char path[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    pid_t pid;
    int r = str_format(&name, "HOLDFAST_VM=%s", a->vm->plan.name);

    if (r < 0)
        return r;
    env[0] = path;
    env[1] = name;
    r = spawn_child(
        &(struct spawn){
            .path = a->probe->argv[0],
            .argv = a->probe->argv,
            .env = env,
            .go_fd = -1,
            .new_group = true,
            .prepare = helper_child_prepare,
        },
        &pid);
    if (r < 0)
        return r;
    tree_expect(&a->vm->tree, pid);
    r = pidref_open(pid, &a->child);
    if (r < 0) {
        tree_forget(&a->vm->tree, pid);
        return r;
    }
    pidwatch_start(&a->watch, a->vm->loop, &a->child, on_child_exited, a);
    return 0;
}

static void end_child(struct probe_attempt *a)
{
    if (a->child.pid == 0)
        return;
    pidwatch_stop(&a->watch);
    (void)kill(-a->child.pid, SIGKILL);
    (void)pidref_kill(&a->child, SIGKILL);
    if (reap_child(a, WNOHANG) == -ECHILD) {
        /* It takes a moment to die: from now on it is a stray, reaped when it does. */
        tree_forget(&a->vm->tree, a->child.pid);
        pidref_done(&a->child);
    }
}

/* ---- console: a pattern in what the guest has said in this boot ---- */

static int begin_console(struct probe_attempt *a)
{
    struct log_reader log;
    uint64_t start, end;
    size_t len = 0;
    auto_free char *text = malloc(LOG_WINDOW + 1);
    regex_t pattern;
    ssize_t n = 1;
    bool found;
    int r = log_reader_open(&log, a->vm->log_fd, FILE_CONSOLE_LOG);

    if (r == 0)
        r = log_reader_range(&log, &start, &end);
    if (r == 0 && !text)
        r = -ENOMEM;
    if (r == 0 && regcomp(&pattern, a->probe->match, REG_EXTENDED | REG_NOSUB | REG_NEWLINE) != 0)
        r = -EINVAL;
    if (r < 0) {
        log_reader_close(&log);
        return r;
    }
    if (end - start > LOG_WINDOW)
        start = end - LOG_WINDOW;
    for (; len < LOG_WINDOW && (n = log_reader_read(&log, start + len, text + len, LOG_WINDOW - len)) > 0; len += (size_t)n)
        continue;
    log_reader_close(&log);
    for (size_t i = 0; i < len; i++)
        if (text[i] == '\0')
            text[i] = ' ';
    text[len] = '\0';
    found = regexec(&pattern, text, 0, NULL, 0) == 0;
    regfree(&pattern);
    return found ? 1 : -ENODATA;
}

/* 1: done at once and well. */
static int (*const begins[])(struct probe_attempt *a) = {
    [PROBE_TCP] = begin_tcp,     [PROBE_HTTP] = begin_tcp,  [PROBE_QMP] = begin_qmp,
    [PROBE_AGENT] = begin_agent, [PROBE_EXEC] = begin_exec, [PROBE_CONSOLE] = begin_console,
};

int probe_begin(struct vm *vm, const struct plan_probe *probe, void (*done)(void *arg, const char *why), void *arg,
                struct probe_attempt **ret_attempt)
{
    struct probe_attempt *a = calloc(1, sizeof(*a));
    int r;

    if (!a)
        return -ENOMEM;
    a->vm = vm;
    a->probe = probe;
    a->done = done;
    a->arg = arg;
    a->connecting.fd = -1;
    a->child = PIDREF_NONE;
    ev_timer_init(&a->timeout, on_timeout, (double)probe->timeout_ms / 1000.0, 0.0);
    ev_timer_init(&a->steady, on_steady, TCP_STEADY_MS / 1000.0, 0.0);
    r = begins[probe->kind](a);
    if (r != 0) {
        probe_free(a);
        return r;
    }
    ev_timer_start(loop_ev(vm->loop), &a->timeout);
    *ret_attempt = a;
    return 0;
}

void probe_free(struct probe_attempt *a)
{
    if (!a)
        return;
    ev_timer_stop(loop_ev(a->vm->loop), &a->timeout);
    ev_timer_stop(loop_ev(a->vm->loop), &a->steady);
    if (a->connecting.fd >= 0) {
        ev_io_stop(loop_ev(a->vm->loop), &a->connecting);
        fd_close(a->connecting.fd);
    }
    stream_free(a->stream);
    agent_call_free(a->agent);
    if (a->qmp_orphaned)
        *a->qmp_orphaned = true;
    end_child(a);
    free(a->response);
    free(a);
}
