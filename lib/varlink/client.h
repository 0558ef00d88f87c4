/* A blocking Varlink client for command-line tools: one connection, one call at a time, every wait bounded. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

struct varlink_client;

/* -ENOENT, -ECONNREFUSED, -EACCES… with a text naming the path. */
int varlink_client_connect(const char *path, struct varlink_client **ret_client, struct err *err);
/* Over an fd the caller has connected (socket_connect_path(): at once or not at all), taken on success. */
int varlink_client_new_take(int fd, struct varlink_client **ret_client);
void varlink_client_free(struct varlink_client *c);
DEFINE_CLEANUP(struct varlink_client *, varlink_client, varlink_client_free)
#define auto_varlink_client auto_cleanup(varlink_client_cleanup)

/* One call and its one reply. `method` is the full name; `parameters` consumed, NULL: {}. On a Varlink error returns -EREMOTEIO, *ret_parameters
 * holds the error's parameters, err->id its full name cut to fit and err->text its "reason" (or the name). -ETIMEDOUT after `timeout_ms`
 * (negative: none). *ret_parameters is the caller's in both cases; ret_parameters may be NULL. After any other failure the connection
 * takes no more calls, since a late reply could be mistaken for the next one's. */
int varlink_client_call_consume(struct varlink_client *c, const char *method, json_t *parameters, int timeout_ms, json_t **ret_parameters,
                                struct err *err);
/* The full name of the last Varlink error, "" when the last call had none. */
const char *varlink_client_error(const struct varlink_client *c);

/* A call with "more": send, then next() until it returns 0 (final reply given) instead of 1 (more will come). After -ETIMEDOUT from next() the
 * stream is still open: nothing was lost, and next() may be called again. */
int varlink_client_more_consume(struct varlink_client *c, const char *method, json_t *parameters, struct err *err);
int varlink_client_next(struct varlink_client *c, int timeout_ms, json_t **ret_parameters, struct err *err);

/* A call with "upgrade": the reply, then the raw connection (nonblocking); `rest` is what arrived behind the reply. The client is spent. A
 * Varlink error is -EREMOTEIO as above. */
int varlink_client_upgrade_consume(struct varlink_client *c, const char *method, json_t *parameters, int timeout_ms, int *ret_fd,
                                   char **ret_rest, size_t *ret_rest_len, struct err *err);

/* The connection's fd, to poll it together with others while a stream is open. */
int varlink_client_fd(const struct varlink_client *c);
/* Whether a whole message is buffered already, so that next() won't wait. */
bool varlink_client_pending(const struct varlink_client *c);
