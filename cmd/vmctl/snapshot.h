/* What the verbs about snapshots share: how one is named, calls that take their time, how one is shown. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/base/parse.h"

struct snapshot_name {
    char vm[NAME_MAX_LEN + 1];
    const char *snapshot; /* in the text it was read from */
};

/* "web/before", or "before" of the VM `vm` (NULL: the VM must be named). Complains. */
enum outcome snapshot_name_read(const struct invocation *in, const char *text, const char *vm, struct snapshot_name *ret);

/* A call to the manager with progress on a terminal: "warming web/before: 40 % (212 of 530 MiB), 3 s". `of` names what the call is about,
 * and its failures. `parameters` consumed. Complains. */
enum outcome snapshot_call_consume(const struct invocation *in, const char *method, const char *doing, const char *of, json_t *parameters,
                                   json_t **ret_reply);

/* Whether --mode, when given, is a mode of restoring. Complains. */
enum outcome snapshot_mode_check(const struct invocation *in);

/* {"vm": …, "snapshot": …} for most methods. */
json_t *snapshot_parameters(const struct snapshot_name *name);

/* Gives a Snapshot the members the manager leaves out when there is nothing to say: null. */
void snapshot_complete(json_t *snapshot);

/* A line of as many columns as the array has numbers, each 0 to 100: blocks where the terminal can show them, else letters. malloc'ed. */
char *snapshot_bar(const json_t *percents);
