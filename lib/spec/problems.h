/* Collects the mistakes of one spec on their way to the caller, at most one per place. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/strv.h"

struct problems {
    void (*report)(void *arg, const struct err *err);
    void *arg;
    struct strv paths; /* JSON Pointers reported so far */
    int n;
};

/* Hands "POINTER: text" on with id "bad-spec", unless POINTER or something it lies in was reported before: what couldn't be read
 * needs no second complaint that it is missing. */
void problem_add(struct problems *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same for record_parse_all(); arg is the struct problems. */
void problem_from_record(void *arg, const struct err *err);

/* Whether anything at or under `pointer` was reported. */
bool problem_under(const struct problems *p, const char *pointer);

void problems_done(struct problems *p);
#define auto_problems auto_cleanup(problems_done)
