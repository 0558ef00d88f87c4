/* Talking to the manager, and saying what went wrong in one line with the exit status that goes with it. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/varlink/client.h"

#define MANAGER_INTERFACE "io.holdfast.Manager"
#define SHIM_INTERFACE "io.holdfast.Shim"

enum { MANAGER_TIMEOUT_MS = 10 * 1000 }; /* for answers the manager gives at once when it is well */

/* RUN/manager.sock, malloc'ed. */
char *manager_socket(const struct invocation *in);

/* Connects; complains when that fails. */
enum outcome manager_connect(const struct invocation *in, struct varlink_client **ret_client);
/* Whether a connect or call failed because there is no manager to talk to (rather than by its answer). */
bool manager_is_away(int r);
/* Says why `r` from varlink_client_connect() means that nobody can be asked. */
enum outcome manager_complain_connect(const struct invocation *in, int r, const struct err *err);

/* One call and its reply, deadline MANAGER_TIMEOUT_MS. `parameters` consumed. Complains about
 * failures, with `vm` (may be NULL) in front. */
enum outcome manager_call_consume(const struct invocation *in, const char *method, const char *vm, json_t *parameters, json_t **ret_reply);
/* The same on a connection of the caller's. */
enum outcome manager_call_on_consume(const struct invocation *in, struct varlink_client *client, const char *method, const char *vm,
                                     json_t *parameters, json_t **ret_reply);

/* How a call ended that gave `r` (-EREMOTEIO: with the Varlink error `name`). */
enum outcome outcome_of_call(int r, const char *name);
/* One line about a failed call, to a manager or to a shim: what it said, and what to do. `parameters`: the error's, may be NULL. */
void complain_call(const struct invocation *in, const char *vm, int r, const char *error, const json_t *parameters, const struct err *err);
