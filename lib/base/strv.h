/* A growing NULL-ended vector of owned strings: argv, environments. A failed push is remembered, so a builder checks once at
 * the end: strv_push(&v, "-m"); strv_pushf(&v, "%zu", n); if (v.failed) return -ENOMEM; */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/util.h"

struct strv {
    char **items; /* NULL-ended once anything was pushed; NULL while empty */
    size_t n;
    bool failed;
};

void strv_push(struct strv *v, const char *s);
void strv_pushf(struct strv *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void strv_clear(struct strv *v);
#define auto_strv auto_cleanup(strv_clear)

/* The vector as an argv, never NULL. */
char *const *strv_argv(const struct strv *v);

/* One line for people: words quoted for a POSIX shell where they need it. malloc'ed; NULL when out of memory. */
char *strv_to_shell(char *const *argv);
