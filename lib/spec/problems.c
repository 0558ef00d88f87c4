#include "lib/spec/problems.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static size_t pointer_len(const char *text)
{
    const char *end = strstr(text, ": ");
    return end ? (size_t)(end - text) : strlen(text);
}

/* Whether the place `inner` is `outer` or lies in it. */
static bool pointer_within(const char *inner, size_t inner_len, const char *outer)
{
    size_t n = strlen(outer);
    return n <= inner_len && memcmp(inner, outer, n) == 0 && (inner_len == n || inner[n] == '/');
}

static void problem_report(struct problems *p, const char *text)
{
    struct err err = ERR_INIT;

    err_set(&err, EINVAL, "bad-spec", "%s", text);
    p->n++;
    strv_pushf(&p->paths, "%.*s", (int)pointer_len(text), text);
    if (p->report)
        p->report(p->arg, &err);
}

void problem_add(struct problems *p, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX * 2];
    va_list ap;

    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    for (size_t i = 0; i < p->paths.n; i++)
        if (p->paths.items[i][0] && pointer_within(text, pointer_len(text), p->paths.items[i]))
            return;
    problem_report(p, text);
}

void problem_from_record(void *arg, const struct err *err) { problem_report(arg, err->text); }

bool problem_under(const struct problems *p, const char *pointer)
{
    for (size_t i = 0; i < p->paths.n; i++)
        if (pointer_within(p->paths.items[i], strlen(p->paths.items[i]), pointer))
            return true;
    return false;
}

void problems_done(struct problems *p) { strv_clear(&p->paths); }
