/* A Varlink service on the loop (https://varlink.org/Method-Call, https://varlink.org/Service).
 *
 * Methods are dispatched from one table per interface; a method of the IDL without an entry, or an entry without a method, is an
 * error at start. Calls on one connection are answered in order; each call is an object that lives until its final reply,
 * so a handler may answer later from another callback. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/socket.h"
#include "lib/loop/loop.h"
#include "lib/varlink/idl.h"

enum {
    VARLINK_MESSAGE_MAX = 1024 * 1024,   /* one incoming message */
    VARLINK_QUEUE_MAX = 4 * 1024 * 1024, /* unsent output per connection; a slower reader is cut off */
    VARLINK_CONNECTIONS_MAX = 1024,      /* in all */
    VARLINK_CONNECTIONS_PER_UID = 256,
    VARLINK_FRAME_TIMEOUT_MS = 10 * 1000, /* for a message begun and not finished */
};

struct varlink_call;
struct varlink_service;

struct varlink_method {
    const char *name; /* without the interface */
    /* Must sooner or later end the call by one of the functions below. `parameters` is borrowed, checked, never NULL. */
    void (*run)(struct varlink_call *call, const json_t *parameters, void *userdata);
    bool more;    /* only with "more": others get org.varlink.service.ExpectedMore */
    bool upgrade; /* only with "upgrade": others get InvalidParameter, and so does "upgrade" for any other method */
};

struct varlink_service_config {
    const char *vendor, *product, *version, *url;  /* GetInfo; must outlive the service */
    gid_t group;                                   /* members may call, besides uid 0 and our own uid; (gid_t)-1: nobody else. Others get
                           * org.varlink.service.PermissionDenied and are closed */
    unsigned connections_max, connections_per_uid; /* 0: the defaults above */
    uint64_t frame_timeout_ms;                     /* 0: the default above */
};

/* Freeing closes all connections; calls that are under way are told by their `gone`. Never from inside a method. */
int varlink_service_new(struct loop *l, const struct varlink_service_config *config, struct varlink_service **ret_service);
void varlink_service_free(struct varlink_service *s);
DEFINE_CLEANUP(struct varlink_service *, varlink_service, varlink_service_free)
#define auto_varlink_service auto_cleanup(varlink_service_cleanup)

/* The interface must outlive the service. -EINVAL naming the first method that is in only one of IDL and table. */
int varlink_service_add(struct varlink_service *s, const struct varlink_interface *i, const struct varlink_method *methods, size_t n,
                        void *userdata, struct err *err);

/* Accepts on a listening socket until the service is freed. On EMFILE accepting pauses a second. Several are allowed. */
int varlink_service_listen_take(struct varlink_service *s, int fd);
size_t varlink_service_connections(const struct varlink_service *s);

/* ---- a call ---- */
bool varlink_call_wants_more(const struct varlink_call *c);
const struct socket_peer *varlink_call_peer(const struct varlink_call *c);

/* Ends the call. `parameters` is consumed, NULL means {}. A reply that doesn't fit the IDL is a defect of ours: the client gets
 * io.holdfast.InternalError with the reason, and -EINVAL is returned (and asserted in test builds). */
int varlink_call_reply_consume(struct varlink_call *c, json_t *parameters);
/* `error` is a full name, "io.holdfast.Manager.NoSuchVM". */
int varlink_call_error_consume(struct varlink_call *c, const char *error, json_t *parameters);
/* The same for errors with a `reason: string`: adds it to `parameters` (consumed, NULL: {}), cut to ERR_TEXT_MAX. */
int varlink_call_error_reason_consume(struct varlink_call *c, const char *error, json_t *parameters, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* One reply of a stream ("continues": true); the call goes on. -EPROTO when the caller didn't say "more". */
int varlink_call_continue_consume(struct varlink_call *c, json_t *parameters);
/* Bytes queued on the call's connection: a producer may wait when it grows. */
size_t varlink_call_queued(const struct varlink_call *c);

/* Sends the final reply, and when that is written hands the raw connection to `upgraded`, which owns fd (nonblocking) and rest.
 * When the connection is lost before, `upgraded` gets fd -1, so that `arg` can be released. Always ends the call, also on failure: then
 * -errno is returned and `upgraded` isn't called. */
int varlink_call_upgrade_consume(struct varlink_call *c, json_t *parameters,
                                 void (*upgraded)(void *arg, int fd, char *rest, size_t rest_len), void *arg);

/* Told when the client goes away before the call's end; the call is invalid afterwards. Oneway calls never get this: they live
 * until they are ended, whoever is gone. */
void varlink_call_on_gone(struct varlink_call *c, void (*gone)(void *arg), void *arg);
