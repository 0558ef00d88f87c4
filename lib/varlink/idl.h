/* Varlink interface definitions (https://varlink.org/Interface-Definition): parsed once, then every call, reply and error is
 * checked against them. All nodes live in one block and names point into the text, so a parsed interface is a few KiB. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

struct varlink_interface;

/* `text` must outlive the interface (it is embedded in the binary). -EINVAL with "line 12: …". */
int varlink_interface_parse(const char *text, struct varlink_interface **ret_interface, struct err *err);
void varlink_interface_free(struct varlink_interface *i);
DEFINE_CLEANUP(struct varlink_interface *, varlink_interface, varlink_interface_free)
#define auto_varlink_interface auto_cleanup(varlink_interface_cleanup)

const char *varlink_interface_name(const struct varlink_interface *i); /* NUL-ended */
const char *varlink_interface_text(const struct varlink_interface *i);
bool varlink_interface_has_method(const struct varlink_interface *i, const char *method); /* name without the interface */
bool varlink_interface_has_error(const struct varlink_interface *i, const char *error);   /* full name */
/* Calls `each` with every method name, in order of the text. */
void varlink_interface_methods(const struct varlink_interface *i, void (*each)(void *arg, const char *method), void *arg);

enum varlink_side { VARLINK_IN, VARLINK_OUT };

/* Whether `parameters` (NULL counts as {}) fit the method's in or out struct. Unknown members are ignored when `lenient` (what a newer peer
 * sends), else errors (what we send). -EINVAL with id "bad-parameter" and text "vms[3].state: expected string, got integer"; the
 * top-level member's name is copied to ret_member (for org.varlink.service.InvalidParameter) when that isn't NULL. */
int varlink_check(const struct varlink_interface *i, const char *method, enum varlink_side side, const json_t *parameters, bool lenient,
                  char ret_member[64], struct err *err);
/* `error` is the full name, or the name without the interface. */
int varlink_check_error(const struct varlink_interface *i, const char *error, const json_t *parameters, bool lenient, struct err *err);
