#include "lib/base/err.h"

#include <errno.h>

static const char ellipsis[] = "…";

/* Ends `text` in "…" after at most `size` bytes, without cutting a UTF-8 sequence in two. */
static void cut_text(char *text, size_t size)
{
    size_t end = size - sizeof(ellipsis);
    while (end > 0 && ((unsigned char)text[end] & 0xc0) == 0x80)
        end--;
    memcpy(text + end, ellipsis, sizeof(ellipsis));
}

/* An error is one line wherever it is printed, also when it quotes what somebody else wrote. */
static void one_line(char *text)
{
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            *p = ' ';
}

__attribute__((format(printf, 5, 0))) static void fill(struct err *err, int code, const char *id, const char *words, const char *fmt,
                                                       va_list ap)
{
    /* By way of a buffer of its own, since the arguments may point into err->text. */
    char text[ERR_TEXT_MAX];
    int n = vsnprintf(text, sizeof(text), fmt, ap);
    if (n >= 0 && (size_t)n < sizeof(text) && words) {
        int m = snprintf(text + n, sizeof(text) - (size_t)n, ": %s", words);
        n = m < 0 ? n : n + m;
    }
    if (n < 0)
        text[0] = '\0';
    else if ((size_t)n >= sizeof(text))
        cut_text(text, sizeof(text));
    one_line(text);
    char id_text[ERR_ID_MAX];
    snprintf(id_text, sizeof(id_text), "%s", id ? id : "failed");
    memcpy(err->text, text, sizeof(text));
    memcpy(err->id, id_text, sizeof(id_text));
    err->code = code;
}

int err_set(struct err *err, int code, const char *id, const char *fmt, ...)
{
    if (code <= 0)
        code = EINVAL;
    if (err) {
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, id, NULL, fmt, ap);
        va_end(ap);
    }
    return -code;
}

int err_set_errno(struct err *err, int code, const char *id, const char *fmt, ...)
{
    if (code <= 0)
        code = EINVAL;
    if (err) {
        char buf[128];
        va_list ap;
        va_start(ap, fmt);
        fill(err, code, id, strerror_r(code, buf, sizeof(buf)), fmt, ap);
        va_end(ap);
    }
    return -code;
}

void err_prefix(struct err *err, const char *fmt, ...)
{
    if (!err_is_set(err))
        return;
    struct err old = *err;
    va_list ap;
    va_start(ap, fmt);
    fill(err, old.code, old.id, old.text, fmt, ap);
    va_end(ap);
}

int err_from(struct err *err, int r, const char *what)
{
    if (r < 0 && err && !err_is_set(err))
        err_set_errno(err, -r, "failed", "%s", what);
    return r;
}
