/* GET by libcurl, one request at a time, on a thread of the caller's. Redirects are followed only to where the config says: the host of
 * the first URL and `hosts`. Neither proxies of the environment nor ~/.netrc are looked at. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/images/task.h"

struct http_head {
    bool partial;          /* 206: what comes begins at `offset` */
    uint64_t offset, size; /* of the whole; size 0: not said */
    const char *validator; /* a strong ETag, or Last-Modified; NULL: neither */
};

struct http_get {
    const char *url;
    char *const *hosts;                                                     /* NULL-ended, may be NULL */
    uint64_t from;                                                          /* Range: bytes=FROM- */
    const char *validator;                                                  /* If-Range, NULL: none */
    int (*begin)(void *arg, const struct http_head *head, struct err *err); /* once, before any data */
    int (*data)(void *arg, const void *data, size_t len, struct err *err);
    void *arg;
};

/* Once in a process, before it has threads. */
int http_init(void);

/* All of it came: 0. What begin() or data() failed with; -EAGAIN: try again (id "source": the network, a server that is ill, nothing came for
 * stall_timeout); -ENOENT: it isn't there (404, 410); -ERANGE: not from there on (416); -EACCES: TLS, or a redirect elsewhere; -ECANCELED. */
int http_get(struct image_task *task, const struct http_get *get, struct err *err);

/* A whole small document; a NUL follows it. -EFBIG. */
int http_get_text(struct image_task *task, const char *url, char *const *hosts, size_t limit, char **ret_text, size_t *ret_len,
                  struct err *err);

/* Whether the URL's host is that of `base` or one of `hosts`; and no step from https to http. */
bool http_url_is_allowed(const char *url, const char *base, char *const *hosts);
/* `reference` as seen from `base` (RFC 3986). malloc'ed. -EINVAL, -ENOMEM. */
int http_url_resolve(const char *base, const char *reference, char **ret_url);
