#include "lib/varlink/peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/json.h"
#include "lib/loop/stream.h"
#include "lib/varlink/message.h"
#include "lib/varlink/service.h"

/* A call whose replies aren't all in. */
struct peer_call {
    struct peer_call *next;
    struct varlink_peer *peer;
    ev_timer timer;                                          /* until the first reply */
    void (*reply)(void *arg, const struct varlink_reply *r); /* NULL once the call was told of a failure: the rest is skipped */
    void *arg;
    bool more;
    char method[];
};

struct varlink_peer {
    struct loop *loop;
    struct stream *stream;
    const struct varlink_interface *interface;
    void (*closed)(void *arg, int error);
    void *arg;
    struct peer_call *calls, **tail; /* in order of sending, which is the order of the replies */
    struct deferred deferred;        /* frees after varlink_peer_free() */
    bool freed, dead;
};

static void call_done(struct peer_call *call)
{
    ev_timer_stop(loop_ev(call->peer->loop), &call->timer);
    free(call);
}

static struct peer_call *take_first(struct varlink_peer *p)
{
    struct peer_call *call = p->calls;

    p->calls = call->next;
    if (!p->calls)
        p->tail = &p->calls;
    return call;
}

static void tell(struct peer_call *call, const struct varlink_reply *r)
{
    if (call->reply)
        call->reply(call->arg, r);
}

/* The end of the connection: every outstanding call is told, then the owner. Each of them may free the peer. */
static void end(struct varlink_peer *p, int error)
{
    if (p->dead || p->freed)
        return;
    p->dead = true;
    stream_free(steal_ptr(&p->stream));
    while (p->calls && !p->freed) {
        struct peer_call *call = take_first(p);

        tell(call, &(struct varlink_reply){ .failure = -ECONNRESET });
        call_done(call);
    }
    if (!p->freed && p->closed)
        p->closed(p->arg, error);
}

static void on_close(void *arg, int error) { end(arg, error); }

static void on_timeout(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct peer_call *call = container_of(w, struct peer_call, timer);
    struct varlink_peer *p = call->peer;
    void (*reply)(void *arg, const struct varlink_reply *r) = call->reply;

    call->reply = NULL;
    if (reply)
        reply(call->arg, &(struct varlink_reply){ .failure = -ETIMEDOUT });
    end(p, -ETIMEDOUT);
}

static int check(const struct varlink_peer *p, const struct peer_call *call, const struct varlink_message *m)
{
    if (!m->error)
        return varlink_check(p->interface, call->method, VARLINK_OUT, m->parameters, true, NULL, NULL);
    /* Errors that this build doesn't know (a newer service's, org.varlink.service's) are handed on as they are. */
    if (!varlink_interface_has_error(p->interface, m->error))
        return 0;
    return varlink_check_error(p->interface, m->error, m->parameters, true, NULL);
}

static void on_frame(void *arg, char *data, size_t len)
{
    struct varlink_peer *p = arg;
    struct varlink_message auto_varlink_message m = { 0 };
    struct peer_call *call = p->calls;
    struct varlink_reply reply = { 0 };

    if (!call || varlink_message_parse_reply(data, len, &m, NULL) < 0 || (m.continues && !call->more)) {
        end(p, -EPROTO);
        return;
    }
    ev_timer_stop(loop_ev(p->loop), &call->timer);
    reply = (struct varlink_reply){ .error = m.error, .parameters = m.parameters, .continues = m.continues };
    if (check(p, call, &m) < 0)
        reply = (struct varlink_reply){ .failure = -EPROTO };
    if (!m.continues) {
        take_first(p);
        tell(call, &reply);
        call_done(call);
        return;
    }
    if (reply.failure < 0) {
        void (*told)(void *arg, const struct varlink_reply *r) = steal_ptr(&call->reply);

        if (told)
            told(call->arg, &reply);
        return;
    }
    tell(call, &reply);
}

int varlink_peer_new_take(struct loop *l, int fd, const struct varlink_interface *i, void (*closed)(void *arg, int error), void *arg,
                          struct varlink_peer **ret_peer)
{
    struct varlink_peer *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    r = stream_new_take(l, fd,
                        &(struct stream_config){
                            .delimiter = '\0',
                            .in_max = VARLINK_QUEUE_MAX, /* what a service may send */
                            .out_max = VARLINK_QUEUE_MAX,
                            .frame_timeout_ms = VARLINK_FRAME_TIMEOUT_MS,
                            .on_frame = on_frame,
                            .on_close = on_close,
                            .arg = p,
                        },
                        &p->stream);
    if (r < 0) {
        free(p);
        return r;
    }
    p->loop = l;
    p->interface = i;
    p->closed = closed;
    p->arg = arg;
    p->tail = &p->calls;
    *ret_peer = p;
    return 0;
}

static void free_deferred(void *arg)
{
    struct varlink_peer *p = arg;

    while (p->calls)
        call_done(take_first(p));
    free(p);
}

void varlink_peer_free(struct varlink_peer *p)
{
    if (!p || p->freed)
        return;
    p->freed = true;
    stream_free(steal_ptr(&p->stream));
    for (struct peer_call *call = p->calls; call; call = call->next)
        ev_timer_stop(loop_ev(p->loop), &call->timer);
    /* We may be inside of a reply or of `closed`: the memory goes when the loop has unwound. */
    loop_defer(p->loop, &p->deferred, free_deferred, p);
}

static struct peer_call *call_new(struct varlink_peer *p, const char *method, unsigned flags,
                                  void (*reply)(void *arg, const struct varlink_reply *r), void *arg)
{
    size_t len = strlen(method) + 1;
    struct peer_call *call = calloc(1, sizeof(*call) + len);

    if (!call)
        return NULL;
    memcpy(call->method, method, len);
    call->peer = p;
    call->reply = reply;
    call->arg = arg;
    call->more = flags & VARLINK_MORE;
    ev_init(&call->timer, on_timeout);
    return call;
}

static int send_call(struct varlink_peer *p, const char *method, json_t *parameters, unsigned flags)
{
    char auto_free *text = NULL;
    size_t len = 0;
    int r = varlink_message_format_call(varlink_interface_name(p->interface), method, parameters, flags & VARLINK_MORE,
                                        flags & VARLINK_ONEWAY, false, &text, &len);

    return r < 0 ? r : stream_send(p->stream, text, len);
}

int varlink_peer_call_consume(struct varlink_peer *p, const char *method, json_t *parameters, unsigned flags, uint64_t timeout_ms,
                              void (*reply)(void *arg, const struct varlink_reply *r), void *arg)
{
    json_t auto_json *owned = parameters;
    struct peer_call *call;
    int r;

    if ((flags & VARLINK_MORE) && (flags & VARLINK_ONEWAY))
        return -EINVAL;
    if (p->dead || p->freed)
        return -ENOTCONN;
    r = varlink_check(p->interface, method, VARLINK_IN, owned, false, NULL, NULL);
    if (r < 0)
        return r;
    if (flags & VARLINK_ONEWAY)
        return send_call(p, method, owned, flags);
    call = call_new(p, method, flags, reply, arg);
    if (!call)
        return -ENOMEM;
    r = send_call(p, method, owned, flags);
    if (r == -ENOMEM) {
        free(call);
        return r;
    }
    /* A connection that broke is told by way of the loop like any other, after what the service still said before. */
    *p->tail = call;
    p->tail = &call->next;
    if (timeout_ms > 0) {
        ev_now_update(loop_ev(p->loop));
        ev_timer_set(&call->timer, (double)timeout_ms / 1000., 0.);
        ev_timer_start(loop_ev(p->loop), &call->timer);
    }
    return 0;
}
