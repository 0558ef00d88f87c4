#include "lib/varlink/connection.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/err.h"
#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/util.h"

#define ERROR_PREFIX "org.varlink.service."

struct varlink_call {
    struct connection *connection; /* NULL for a oneway call whose client has gone */
    const struct varlink_interface *interface;
    const struct varlink_method *method;
    struct socket_peer peer;
    void (*gone)(void *arg);
    void *arg;
    bool more : 1, oneway : 1, upgrade : 1;
    bool failed : 1; /* the client was told of a defect of ours: nothing more is sent */
};

static void pump(void *arg);

/* ---- replies ---- */

static int send_reply(struct connection *c, const char *error, json_t *parameters, bool continues)
{
    char auto_free *text = NULL;
    size_t len = 0;
    int r = varlink_message_format_reply(error, parameters, continues, &text, &len);

    return r < 0 ? r : stream_send(c->stream, text, len);
}

/* An error of org.varlink.service with its one parameter, if it has one. */
static int send_error(struct connection *c, const char *name, const char *key, const char *value)
{
    json_t auto_json *parameters = key ? json_pack("{s:s}", key, value) : json_object();
    char full[64];

    if (!parameters)
        return -ENOMEM;
    snprintf(full, sizeof(full), ERROR_PREFIX "%s", name);
    return send_reply(c, full, parameters, false);
}

static void call_free(struct varlink_call *call)
{
    struct connection *c = call->connection;

    if (c) {
        c->call = NULL;
        /* The next call's turn comes from pump(), which is running if we are inside a method. */
        if (!c->dispatching)
            loop_defer(c->service->loop, &c->deferred, pump, c);
    }
    free(call);
}

/* There was no memory to say what had to be said: a client that is hung up knows more than one that waits for ever. */
static void hang_up(struct connection *c)
{
    c->closing = true;
    stream_close_after_flush(c->stream);
}

/* Our own reply must fit our own description. In test builds a misfit stops the program, unless there was no memory for any parameters at
 * all; else the client is told. */
static int refuse_misfit(struct varlink_call *call, bool deliberate, const struct err *e)
{
    json_t auto_json *parameters = json_pack("{s:s}", "reason", deliberate ? e->text : "out of memory");

#ifdef HOLDFAST_FAILPOINTS
    if (deliberate) {
        fprintf(stderr, "%s.%s: reply doesn't fit its description: %s\n", varlink_interface_name(call->interface), call->method->name,
                e->text);
        abort();
    }
#endif
    if (!call->oneway && send_reply(call->connection, "io.holdfast.InternalError", parameters, false) == -ENOMEM)
        hang_up(call->connection);
    return -EINVAL;
}

static int check_reply(const struct varlink_call *call, const json_t *parameters, struct err *err)
{
    return varlink_check(call->interface, call->method->name, VARLINK_OUT, parameters, false, NULL, err);
}

static bool belongs_to(const struct varlink_interface *i, const char *error)
{
    const char *name = varlink_interface_name(i), *dot = strrchr(error, '.');

    return dot && strlen(name) == (size_t)(dot - error) && has_prefix(error, name);
}

static int check_error(const struct varlink_call *call, const char *error, const json_t *parameters, struct err *err)
{
    if (belongs_to(call->interface, error))
        return varlink_check_error(call->interface, error, parameters, false, err);
    if (belongs_to(call->connection->service->self, error))
        return varlink_check_error(call->connection->service->self, error, parameters, false, err);
    return err_set(err, EINVAL, "bad-parameter", "%s is not an error of %s", error, varlink_interface_name(call->interface));
}

static bool knows_error(const struct varlink_call *call, const char *error)
{
    return belongs_to(call->interface, error) && varlink_interface_has_error(call->interface, error);
}

static int end_call(struct varlink_call *call, const char *error, json_t *parameters)
{
    struct err e = ERR_INIT;
    int r = 0;

    if (call->connection && !call->failed) {
        r = error ? check_error(call, error, parameters, &e) : check_reply(call, parameters, &e);
        if (r == -EINVAL)
            r = refuse_misfit(call, parameters || (error && !knows_error(call, error)), &e);
        else if (r == 0 && !call->oneway)
            r = send_reply(call->connection, error, parameters, false);
        if (r == -ENOMEM)
            hang_up(call->connection);
    }
    call_free(call);
    return r;
}

int varlink_call_reply_consume(struct varlink_call *call, json_t *parameters)
{
    json_t auto_json *owned = parameters;

    return end_call(call, NULL, owned);
}

int varlink_call_error_consume(struct varlink_call *call, const char *error, json_t *parameters)
{
    json_t auto_json *owned = parameters;

    return end_call(call, error, owned);
}

int varlink_call_error_reason_consume(struct varlink_call *call, const char *error, json_t *parameters, const char *fmt, ...)
{
    json_t auto_json *owned = parameters ? parameters : json_object();
    char reason[ERR_TEXT_MAX];
    json_t *text;
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(reason, sizeof(reason), fmt, ap);
    va_end(ap);
    utf8_clean(reason); /* cut inside of a character, or no UTF-8 to begin with */
    text = json_string(reason);
    json_object_set_new(owned, "reason", text);
    return end_call(call, error, owned);
}

int varlink_call_continue_consume(struct varlink_call *call, json_t *parameters)
{
    json_t auto_json *owned = parameters;
    struct err e = ERR_INIT;
    int r;

    if (!call->more)
        return -EPROTO;
    if (call->failed)
        return -EPIPE;
    r = check_reply(call, owned, &e);
    if (r == 0)
        r = send_reply(call->connection, NULL, owned, true);
    if (r == -ENOMEM)
        hang_up(call->connection);
    if (r != -EINVAL)
        return r;
    /* For the client the call is over; its method still ends it, which then says nothing more. */
    call->failed = true;
    return refuse_misfit(call, owned != NULL, &e);
}

size_t varlink_call_queued(const struct varlink_call *call) { return call->connection ? stream_queued(call->connection->stream) : 0; }

bool varlink_call_wants_more(const struct varlink_call *call) { return call->more; }

const struct socket_peer *varlink_call_peer(const struct varlink_call *call) { return &call->peer; }

void varlink_call_on_gone(struct varlink_call *call, void (*gone)(void *arg), void *arg)
{
    call->gone = gone;
    call->arg = arg;
}

/* ---- upgrade ---- */

static void hand_over(struct connection *c)
{
    void (*upgraded)(void *arg, int fd, char *rest, size_t rest_len) = c->upgraded;
    void *arg = c->upgraded_arg;
    size_t rest_len = 0;
    char *rest = NULL;
    int fd = -1;

    if (stream_detach(c->stream, &fd, &rest, &rest_len) == 0) {
        c->stream = NULL;
        c->upgraded = NULL;
    }
    /* A failure has the connection closed, and that tells `upgraded`. */
    connection_free(c);
    if (fd >= 0)
        upgraded(arg, fd, rest, rest_len);
}

int varlink_call_upgrade_consume(struct varlink_call *call, json_t *parameters,
                                 void (*upgraded)(void *arg, int fd, char *rest, size_t rest_len), void *arg)
{
    struct connection *c = call->connection;
    int r;

    if (!call->upgrade) {
        json_decref(parameters);
        call_free(call);
        return -EPROTO;
    }
    r = varlink_call_reply_consume(call, parameters);
    if (r < 0)
        return r;
    c->upgraded = upgraded;
    c->upgraded_arg = arg;
    loop_defer(c->service->loop, &c->deferred, pump, c);
    return 0;
}

/* ---- calls ---- */

static const struct interface_entry *find_interface(const struct varlink_service *s, const char *name, size_t len)
{
    for (size_t i = 0; i < s->n_interfaces; i++) {
        const char *known = varlink_interface_name(s->interfaces[i].interface);

        if (strlen(known) == len && memcmp(known, name, len) == 0)
            return &s->interfaces[i];
    }
    return NULL;
}

static const struct varlink_method *find_method(const struct interface_entry *entry, const char *name)
{
    for (size_t i = 0; i < entry->n_methods; i++)
        if (streq(entry->methods[i].name, name))
            return &entry->methods[i];
    return NULL;
}

/* Answers what can't be run. Nobody hears an error of a oneway call. */
static int refuse(struct connection *c, const struct varlink_message *m, const char *name, const char *key, const char *value)
{
    return m->oneway ? 0 : send_error(c, name, key, value);
}

static int run_call(struct connection *c, const struct interface_entry *entry, const struct varlink_method *method,
                    const struct varlink_message *m)
{
    struct varlink_call *call = calloc(1, sizeof(*call));

    if (!call)
        return -ENOMEM;
    *call = (struct varlink_call){
        .connection = c,
        .interface = entry->interface,
        .method = method,
        .peer = c->peer,
        .more = m->more,
        .oneway = m->oneway,
        .upgrade = m->upgrade,
    };
    c->call = call;
    /* What follows a request to upgrade is no message until that is refused. */
    if (m->upgrade)
        stream_pause(c->stream, true);
    c->dispatching = true;
    method->run(call, m->parameters, entry->userdata);
    c->dispatching = false;
    return 0;
}

/* Negative: the connection is beyond help. */
static int dispatch(struct connection *c, const char *text, size_t len)
{
    struct varlink_message auto_varlink_message m = { 0 };
    const struct interface_entry *entry;
    const struct varlink_method *method;
    char member[64] = "";
    const char *dot;
    int r = varlink_message_parse_call(text, len, &m, NULL);

    if (r < 0)
        return r;
    if (c->refused) {
        c->closing = true;
        r = refuse(c, &m, "PermissionDenied", NULL, NULL);
        stream_close_after_flush(c->stream);
        return r;
    }
    dot = strrchr(m.method, '.');
    if (!dot || dot == m.method || !dot[1])
        return refuse(c, &m, "InvalidParameter", "parameter", "method");
    entry = find_interface(c->service, m.method, (size_t)(dot - m.method));
    if (!entry) {
        char auto_free *name = strndup(m.method, (size_t)(dot - m.method));

        return name ? refuse(c, &m, "InterfaceNotFound", "interface", name) : -ENOMEM;
    }
    method = find_method(entry, dot + 1);
    if (!method)
        return refuse(c, &m, "MethodNotFound", "method", m.method);
    r = varlink_check(entry->interface, method->name, VARLINK_IN, m.parameters, true, member, NULL);
    if (r == -EINVAL)
        return refuse(c, &m, "InvalidParameter", "parameter", member);
    if (r < 0)
        return r;
    if (method->more && !m.more)
        return refuse(c, &m, "ExpectedMore", NULL, NULL);
    if (method->upgrade != m.upgrade)
        return refuse(c, &m, "InvalidParameter", "parameter", "upgrade");
    return run_call(c, entry, method, &m);
}

static struct pending *take_pending(struct connection *c)
{
    struct pending *p = c->pending;

    c->pending = p->next;
    if (!c->pending)
        c->pending_tail = &c->pending;
    c->pending_bytes -= sizeof(*p) + p->len;
    c->upgrade_pending = false; /* nothing is taken in behind one */
    return p;
}

/* Whether input may go on: not while too much of it waits, nor behind a request to upgrade. */
static void update_pause(struct connection *c)
{
    bool upgrading = c->upgraded || c->upgrade_pending || (c->call && c->call->upgrade);

    stream_pause(c->stream, upgrading || c->pending_bytes >= PENDING_MAX);
}

/* Takes up the calls that waited, until one of them isn't answered at once. */
static void pump(void *arg)
{
    struct connection *c = arg;

    if (c->upgraded) {
        if (stream_queued(c->stream) == 0)
            hand_over(c);
        return;
    }
    while (!c->call && c->pending && !c->closing && !c->upgraded) {
        struct pending auto_free *p = take_pending(c);

        if (dispatch(c, p->text, p->len) < 0) {
            connection_free(c);
            return;
        }
    }
    update_pause(c);
}

static void on_frame(void *arg, char *data, size_t len)
{
    struct connection *c = arg;
    struct pending *p;

    if (c->closing)
        return;
    if (!c->call && !c->pending && !c->upgraded) {
        if (dispatch(c, data, len) < 0) {
            connection_free(c);
            return;
        }
        update_pause(c);
        return;
    }
    p = malloc(sizeof(*p) + len + 1);
    if (!p) {
        connection_free(c);
        return;
    }
    *p = (struct pending){ .len = len };
    memcpy(p->text, data, len + 1);
    *c->pending_tail = p;
    c->pending_tail = &p->next;
    c->pending_bytes += sizeof(*p) + len;
    /* What stands behind a request to upgrade is not ours to cut into messages, so this must be known before its turn. */
    c->upgrade_pending = varlink_message_is_upgrade(p->text, len);
    update_pause(c);
}

static void on_close(void *arg, int error) { connection_free(arg); }

static void on_drained(void *arg)
{
    struct connection *c = arg;

    if (c->upgraded)
        loop_defer(c->service->loop, &c->deferred, pump, c);
}

static void on_refusal_timeout(struct ev_loop *ev, ev_timer *w, int revents)
{
    connection_free(container_of(w, struct connection, refusal));
}

/* ---- life ---- */

int connection_new_consume(struct varlink_service *s, int fd, const struct socket_peer *peer, bool refused)
{
    uint64_t timeout_ms = s->config.frame_timeout_ms ? s->config.frame_timeout_ms : VARLINK_FRAME_TIMEOUT_MS;
    struct connection *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        fd_close(fd);
        return -ENOMEM;
    }
    r = stream_new_take(s->loop, fd,
                        &(struct stream_config){
                            .delimiter = '\0',
                            .in_max = VARLINK_MESSAGE_MAX,
                            .out_max = VARLINK_QUEUE_MAX,
                            .frame_timeout_ms = timeout_ms,
                            .on_frame = on_frame,
                            .on_close = on_close,
                            .on_drained = on_drained,
                            .arg = c,
                        },
                        &c->stream);
    if (r < 0) {
        fd_close(fd);
        free(c);
        return r;
    }
    c->service = s;
    c->peer = *peer;
    c->refused = refused;
    c->pending_tail = &c->pending;
    c->next = s->connections;
    c->prev_next = &s->connections;
    if (c->next)
        c->next->prev_next = &c->next;
    s->connections = c;
    s->n_connections++;
    ev_timer_init(&c->refusal, on_refusal_timeout, (double)timeout_ms / 1000., 0.);
    if (refused)
        ev_timer_start(loop_ev(s->loop), &c->refusal);
    return 0;
}

/* Told last: what the callbacks do finds the connection gone already. */
static void tell_lost(struct varlink_call *call, void (*upgraded)(void *arg, int fd, char *rest, size_t rest_len), void *upgraded_arg)
{
    if (upgraded)
        upgraded(upgraded_arg, -1, NULL, 0);
    if (!call)
        return;
    call->connection = NULL;
    if (call->oneway)
        return; /* its method still ends it */
    if (call->gone)
        call->gone(call->arg);
    free(call);
}

void connection_free(struct connection *c)
{
    struct varlink_service *s;
    struct varlink_call *call;

    if (!c)
        return;
    s = c->service;
    call = c->call;
    ev_timer_stop(loop_ev(s->loop), &c->refusal);
    loop_undefer(&c->deferred);
    stream_free(c->stream);
    *c->prev_next = c->next;
    if (c->next)
        c->next->prev_next = c->prev_next;
    s->n_connections--;
    while (c->pending)
        free(take_pending(c));
    tell_lost(call, c->upgraded, c->upgraded_arg);
    free(c);
}
