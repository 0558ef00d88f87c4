/* io.holdfast.Images: methods in one table, and the errors they share; internal to the service's files. */
#pragma once

#include "lib/images/activity.h"

int api_start(struct images_service *s, struct err *err);

typedef void api_handler(struct varlink_call *call, const json_t *parameters, void *userdata);
api_handler api_list, api_get_release, api_resolve, api_delete, api_prune; /* api_look.c */
api_handler api_pull, api_cancel, api_import, api_verify;                  /* api_long.c */

/* The error that `r` and `err` are to a caller who asked for this release (may be NULL). Ends the call. */
void api_fail(struct varlink_call *call, const char *name, const char *version, int r, const struct err *err);
/* Whether the parameters "name" and "version" are names; else ends the call. With `any_version` "auto" is one, too. */
bool api_check_names(struct varlink_call *call, const char *name, const char *version, bool any_version);

/* ---- work of a moment, on the worker ---- */
struct look {
    struct job job;
    struct images_service *service;
    struct varlink_call *call; /* NULL: gone */
    char *name, *version;
    bool flag; /* what the method makes of it */
    int r;
    struct err err;
    json_t *result;
    /* On the thread: fills r, err, result. */
    void (*run)(struct look *l);
    /* On the loop, when it went well and the caller is still there: ends the call with `result`. */
    void (*reply)(struct look *l);
};
/* Copies the names. Ends the call when memory runs out. */
void look_begin(struct images_service *s, struct varlink_call *call, const char *name, const char *version, bool flag,
                void (*run)(struct look *l), void (*reply)(struct look *l));
/* The same about an image, with an error that happened before in l->err. */
void look_begin_after(struct images_service *s, struct varlink_call *call, const char *name, const struct err *before,
                      void (*run)(struct look *l), void (*reply)(struct look *l));
/* The answer of Resolve; due: a check is begun when the last one is too old. */
void resolve_begin(struct images_service *s, struct varlink_call *call, const char *name, bool due);
