/* An error a human must understand: a stable id for the wire, one line of text, and the errno that goes with it.
 *
 * Fallible functions return 0 (or something positive) on success and -errno on failure; those whose failure needs words
 * take a `struct err *err` as their last parameter, which may be NULL. The text says what, where and what to do, has no
 * newline and no final full stop. Context is added upward with err_prefix(), and printed or sent once, by the outermost
 * caller. Nothing here allocates, so an error can always be told. */
#pragma once

#include <stdarg.h>
#include <stdbool.h>

enum {
    ERR_ID_MAX = 32,
    ERR_TEXT_MAX = 512,
};

struct err {
    int code;            /* positive errno; 0: nothing set */
    char id[ERR_ID_MAX]; /* stable, lower-case-with-dashes: "bad-spec", "locked" */
    char text[ERR_TEXT_MAX];
};

#define ERR_INIT ((struct err){ 0 })

/* Fills `err` (if not NULL) and returns -code, so that `return err_set(err, EINVAL, "bad-spec", "…", …)` is the idiom.
 * A text that doesn't fit is cut and ends in "…". */
int err_set(struct err *err, int code, const char *id, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* As err_set(), with ": " and the words for `code` (strerror) added to the text. */
int err_set_errno(struct err *err, int code, const char *id, const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/* Puts "prefix: " in front of the text. Nothing happens when `err` is NULL or not set. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* For callees that only returned -errno: sets `err` from `r` unless it is set already. Returns r. */
int err_from(struct err *err, int r, const char *what);

static inline bool err_is_set(const struct err *err) { return err && err->code != 0; }
