/* The four shapes of a Varlink message (https://varlink.org/Method-Call): call, reply, continued reply and error. Pure text and
 * JSON, no I/O; internal to this folder and its tests. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

struct varlink_message {
    json_t *root;               /* owns all below */
    const char *method;         /* calls: never NULL */
    const char *error;          /* replies: NULL when it is none */
    json_t *parameters;         /* an object, never NULL */
    bool more, oneway, upgrade; /* calls */
    bool continues;             /* replies */
};

/* Members that aren't known are ignored; parameters that are null count as {}. -EINVAL for what is no message at all. */
int varlink_message_parse_call(const char *text, size_t len, struct varlink_message *ret_message, struct err *err);
int varlink_message_parse_reply(const char *text, size_t len, struct varlink_message *ret_message, struct err *err);
void varlink_message_clear(struct varlink_message *m);
/* Whether it is a call that asks for an upgrade. */
bool varlink_message_is_upgrade(const char *text, size_t len);
#define auto_varlink_message auto_cleanup(varlink_message_clear)

/* The text of a message, malloc'ed; `parameters` stays the caller's, NULL: left out. -ENOMEM, -EINVAL for text that isn't UTF-8. */
int varlink_message_format_call(const char *interface, const char *method, json_t *parameters, bool more, bool oneway, bool upgrade,
                                char **ret_text, size_t *ret_len);
int varlink_message_format_reply(const char *error, json_t *parameters, bool continues, char **ret_text, size_t *ret_len);
