/* Waiting for a release of an image: holdfast-imaged is asked to get it, and asked again for as long as it can't. */
#pragma once

#include "lib/base/err.h"

struct manager;
struct image_pull;

struct image_pull_request {
    const char *name, *version; /* version NULL: the newest */
    /* A line for people: how far it is, or why it has to wait. */
    void (*progress)(void *arg, const char *text);
    /* Once, from the loop. NULL: the release is in the store, else what must be mended first (there is no such release, its signature is wrong,
     * the disk is full…). That the service isn't there, or that the source isn't, is no end: those come back. */
    void (*done)(void *arg, const struct err *err);
    void *arg;
};

/* The request's strings are copied. -ENOMEM. */
int image_pull_begin(struct manager *m, const struct image_pull_request *request, struct image_pull **ret_pull);

/* Stops waiting, in silence; the service goes on. NULL is fine. Inside done(): not needed. */
void image_pull_free(struct image_pull *pull);
