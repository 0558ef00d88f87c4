/* What the verbs about images share: how one is named, calls to the image service, how one is shown. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/varlink/client.h"

enum { IMAGE_WORD_MAX = 128 };

struct image_word {
    char name[IMAGE_WORD_MAX + 1];
    const char *version; /* in the text it was read from, or "auto" */
};

/* "sp-vm/v1", or without `need_version` also "sp-vm", which is its newest. Complains. */
enum outcome image_word_read(const struct invocation *in, const char *text, bool need_version, struct image_word *ret);

/* A call to the image service, with no end by time: `doing` "pulling", `of` "sp-vm/v1" for the line that shows progress on a terminal.
 * `parameters` consumed. Complains. */
enum outcome image_follow_consume(const struct invocation *in, const char *method, const char *doing, const char *of, json_t *parameters,
                                  json_t **ret_reply);
/* The same of what is answered at once. */
enum outcome image_call_consume(const struct invocation *in, const char *method, json_t *parameters, json_t **ret_reply);

/* {"name": …, "version": …} for most methods. */
json_t *image_parameters(const struct image_word *image);

/* Gives a Release, a Pulling or a Source the members the service leaves out when there is nothing to say: null. */
void image_complete(json_t *image);

/* "web, db", malloc'ed. */
char *image_users(const json_t *release);
