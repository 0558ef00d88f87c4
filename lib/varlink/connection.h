/* What service.c (interfaces, listening, limits) and connection.c (frames, calls) share; internal to this folder. */
#pragma once

#include "lib/base/socket.h"
#include "lib/loop/loop.h"
#include "lib/loop/stream.h"
#include "lib/varlink/message.h"
#include "lib/varlink/service.h"

enum {
    ACCEPT_PAUSE_S = 1,      /* after EMFILE and the like */
    ACCEPT_ROUNDS = 32,      /* in one callback */
    PENDING_MAX = 64 * 1024, /* bytes of calls waiting for their turn before reading pauses */
};

struct interface_entry {
    const struct varlink_interface *interface;
    const struct varlink_method *methods;
    size_t n_methods;
    void *userdata;
};

struct connection;
struct listener;

struct varlink_service {
    struct loop *loop;
    struct varlink_service_config config;
    struct varlink_interface *self; /* org.varlink.service */
    struct interface_entry *interfaces;
    size_t n_interfaces;
    struct listener *listeners;
    struct connection *connections;
    size_t n_connections;
    ev_timer accept_pause;
};

/* A call waiting for the one before it to end, as text: parsed when its turn comes. */
struct pending {
    struct pending *next;
    size_t len;
    char text[];
};

struct connection {
    struct varlink_service *service; /* NULL once the service forgot it: being handed over or freed */
    struct connection *next, **prev_next;
    struct stream *stream;
    struct socket_peer peer;
    struct varlink_call *call; /* under way */
    struct pending *pending, **pending_tail;
    size_t pending_bytes;
    struct deferred deferred;
    ev_timer refusal; /* how long a refused client may wait before its first call */
    void (*upgraded)(void *arg, int fd, char *rest, size_t rest_len);
    void *upgraded_arg;
    bool refused : 1;         /* its uid may not call */
    bool dispatching : 1;     /* a method's run() is on the stack */
    bool upgrade_pending : 1; /* the last of `pending` asks for an upgrade */
    bool closing : 1;         /* told goodbye: nothing more is read */
};

/* Takes fd always. The connection puts itself on the service's list. */
int connection_new_consume(struct varlink_service *s, int fd, const struct socket_peer *peer, bool refused);
/* Ends whatever is under way and frees. */
void connection_free(struct connection *c);
