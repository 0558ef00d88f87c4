#include "lib/varlink/service.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/varlink/connection.h"

struct listener {
    ev_io io;
    struct varlink_service *service;
    struct listener *next;
};

/* https://varlink.org/Service */
static const char service_text[] =
    "# The Varlink service interface is provided by every Varlink service. It describes the service and the\n"
    "# interfaces it implements.\n"
    "interface org.varlink.service\n"
    "\n"
    "# Get a list of all the interfaces a service provides and information about the implementation.\n"
    "method GetInfo() -> (\n"
    "  vendor: string,\n"
    "  product: string,\n"
    "  version: string,\n"
    "  url: string,\n"
    "  interfaces: []string\n"
    ")\n"
    "\n"
    "# Get the description of an interface that is implemented by this service.\n"
    "method GetInterfaceDescription(interface: string) -> (description: string)\n"
    "\n"
    "# The requested interface was not found.\n"
    "error InterfaceNotFound (interface: string)\n"
    "\n"
    "# The requested method was not found.\n"
    "error MethodNotFound (method: string)\n"
    "\n"
    "# The interface defines the requested method, but the service does not implement it.\n"
    "error MethodNotImplemented (method: string)\n"
    "\n"
    "# One of the passed parameters is invalid.\n"
    "error InvalidParameter (parameter: string)\n"
    "\n"
    "# Client is denied access.\n"
    "error PermissionDenied ()\n"
    "\n"
    "# Method is expected to be called with 'more' set to true, but wasn't.\n"
    "error ExpectedMore ()\n";

static void get_info(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const struct varlink_service *s = userdata;
    const struct varlink_service_config *config = &s->config;
    json_t *names = json_array();

    for (size_t i = 0; i < s->n_interfaces; i++)
        json_array_append_new(names, json_string(varlink_interface_name(s->interfaces[i].interface)));
    varlink_call_reply_consume(call, json_pack("{s:s, s:s, s:s, s:s, s:o}", "vendor", config->vendor ? config->vendor : "", "product",
                                               config->product ? config->product : "", "version", config->version ? config->version : "",
                                               "url", config->url ? config->url : "", "interfaces", names));
}

static void get_interface_description(struct varlink_call *call, const json_t *parameters, void *userdata)
{
    const struct varlink_service *s = userdata;
    const char *name = json_string_value(json_object_get(parameters, "interface"));

    for (size_t i = 0; i < s->n_interfaces; i++) {
        const struct varlink_interface *interface = s->interfaces[i].interface;

        if (!streq(varlink_interface_name(interface), name))
            continue;
        varlink_call_reply_consume(call, json_pack("{s:s}", "description", varlink_interface_text(interface)));
        return;
    }
    varlink_call_error_consume(call, "org.varlink.service.InterfaceNotFound", json_pack("{s:s}", "interface", name));
}

static const struct varlink_method service_methods[] = {
    { .name = "GetInfo", .run = get_info },
    { .name = "GetInterfaceDescription", .run = get_interface_description },
};

/* ---- interfaces ---- */

struct missing_method {
    const struct varlink_method *methods;
    size_t n;
    char name[128];
};

static void note_missing(void *arg, const char *method)
{
    struct missing_method *m = arg;

    if (m->name[0])
        return;
    for (size_t i = 0; i < m->n; i++)
        if (streq(m->methods[i].name, method))
            return;
    snprintf(m->name, sizeof(m->name), "%s", method);
}

int varlink_service_add(struct varlink_service *s, const struct varlink_interface *i, const struct varlink_method *methods, size_t n,
                        void *userdata, struct err *err)
{
    struct missing_method missing = { .methods = methods, .n = n };
    const char *name = varlink_interface_name(i);
    struct interface_entry *more;

    for (size_t k = 0; k < n; k++)
        if (!varlink_interface_has_method(i, methods[k].name))
            return err_set(err, EINVAL, "bad-interface", "%s: method %s is implemented but not described", name, methods[k].name);
    varlink_interface_methods(i, note_missing, &missing);
    if (missing.name[0])
        return err_set(err, EINVAL, "bad-interface", "%s: method %s is described but not implemented", name, missing.name);
    for (size_t k = 0; k < s->n_interfaces; k++)
        if (streq(varlink_interface_name(s->interfaces[k].interface), name))
            return err_set(err, EEXIST, "bad-interface", "%s: given twice", name);
    more = reallocarray(s->interfaces, s->n_interfaces + 1, sizeof(*more));
    if (!more)
        return err_set(err, ENOMEM, "no-memory", "out of memory");
    more[s->n_interfaces++] = (struct interface_entry){ .interface = i, .methods = methods, .n_methods = n, .userdata = userdata };
    s->interfaces = more;
    return 0;
}

/* ---- listening ---- */

static void resume_accepting(struct ev_loop *ev, ev_timer *w, int revents)
{
    struct varlink_service *s = container_of(w, struct varlink_service, accept_pause);

    for (struct listener *l = s->listeners; l; l = l->next)
        ev_io_start(ev, &l->io);
}

/* A connection that can't be taken stays readable in the backlog: without a pause the loop would spin on it. */
static void pause_accepting(struct varlink_service *s)
{
    for (struct listener *l = s->listeners; l; l = l->next)
        ev_io_stop(loop_ev(s->loop), &l->io);
    ev_now_update(loop_ev(s->loop));
    ev_timer_set(&s->accept_pause, ACCEPT_PAUSE_S, 0.);
    ev_timer_start(loop_ev(s->loop), &s->accept_pause);
}

static bool is_full(const struct varlink_service *s, uid_t uid)
{
    size_t all = s->config.connections_max ? s->config.connections_max : VARLINK_CONNECTIONS_MAX;
    size_t per_uid = s->config.connections_per_uid ? s->config.connections_per_uid : VARLINK_CONNECTIONS_PER_UID;
    size_t n = 0;

    for (const struct connection *c = s->connections; c; c = c->next)
        n += c->peer.uid == uid;
    return s->n_connections >= all || n >= per_uid;
}

static bool may_call(const struct varlink_service *s, int fd, const struct socket_peer *peer)
{
    return peer->uid == 0 || peer->uid == geteuid() || (s->config.group != (gid_t)-1 && socket_peer_in_group(fd, peer, s->config.group));
}

static void take_connection(struct varlink_service *s, int fd)
{
    /* The NUL at its end is the message's. */
    static const char full[] =
        "{\"error\":\"io.holdfast.TooManyConnections\",\"parameters\":{\"reason\":\"too many connections, try again later\"}}";
    struct socket_peer peer;

    if (socket_peer(fd, &peer) < 0) {
        fd_close(fd);
        return;
    }
    if (is_full(s, peer.uid)) {
        /* A new socket's buffer takes this whole; a client that doesn't read it sees the end of the connection anyway. */
        (void)send(fd, full, sizeof(full), MSG_NOSIGNAL | MSG_DONTWAIT);
        fd_close(fd);
        return;
    }
    connection_new_consume(s, fd, &peer, !may_call(s, fd, &peer));
}

static void on_connect(struct ev_loop *ev, ev_io *io, int revents)
{
    struct listener *l = container_of(io, struct listener, io);

    for (int n = 0; n < ACCEPT_ROUNDS; n++) {
        int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0) {
            take_connection(l->service, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN)
            pause_accepting(l->service);
        return;
    }
}

int varlink_service_listen_take(struct varlink_service *s, int fd)
{
    struct listener *l;

    if (fd < 0)
        return -EBADF;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->service = s;
    l->next = s->listeners;
    s->listeners = l;
    ev_io_init(&l->io, on_connect, fd, EV_READ);
    if (!ev_is_active(&s->accept_pause))
        ev_io_start(loop_ev(s->loop), &l->io);
    return 0;
}

size_t varlink_service_connections(const struct varlink_service *s) { return s->n_connections; }

/* ---- life ---- */

int varlink_service_new(struct loop *l, const struct varlink_service_config *config, struct varlink_service **ret_service)
{
    struct varlink_service auto_varlink_service *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->loop = l;
    s->config = *config;
    ev_init(&s->accept_pause, resume_accepting);
    r = varlink_interface_parse(service_text, &s->self, NULL);
    if (r < 0)
        return r;
    r = varlink_service_add(s, s->self, service_methods, ARRAY_LEN(service_methods), s, NULL);
    if (r < 0)
        return r;
    *ret_service = steal_ptr(&s);
    return 0;
}

void varlink_service_free(struct varlink_service *s)
{
    if (!s)
        return;
    ev_timer_stop(loop_ev(s->loop), &s->accept_pause);
    for (struct listener *l = s->listeners, *next; l; l = next) {
        next = l->next;
        ev_io_stop(loop_ev(s->loop), &l->io);
        fd_close(l->io.fd);
        free(l);
    }
    while (s->connections)
        connection_free(s->connections);
    varlink_interface_free(s->self);
    free(s->interfaces);
    free(s);
}
