#include "lib/base/strv.h"

#include <errno.h>
#include <stdarg.h>

static void push_take(struct strv *v, char *s)
{
    if (!s || v->failed) {
        free(s);
        v->failed = true;
        return;
    }
    /* Grown at powers of two; the size is known from n alone. */
    if ((v->n & (v->n + 1)) == 0) {
        char **items = reallocarray(v->items, (v->n + 1) * 2, sizeof(*items));
        if (!items) {
            free(s);
            v->failed = true;
            return;
        }
        v->items = items;
    }
    v->items[v->n++] = s;
    v->items[v->n] = NULL;
}

void strv_push(struct strv *v, const char *s) { push_take(v, s ? strdup(s) : NULL); }

void strv_pushf(struct strv *v, const char *fmt, ...)
{
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    push_take(v, n < 0 ? NULL : s);
}

void strv_clear(struct strv *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->items[i]);
    free(v->items);
    *v = (struct strv){ 0 };
}

char *const *strv_argv(const struct strv *v)
{
    static char *const empty[] = { NULL };
    return v->items ? v->items : empty;
}

static bool is_plain(const char *word)
{
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
    return *word && word[strspn(word, safe)] == '\0';
}

static bool has_control(const char *word)
{
    for (; *word; word++)
        if ((unsigned char)*word < 0x20 || *word == 0x7f)
            return true;
    return false;
}

/* A control character would break the one line, so such words are written $'…' (POSIX.1-2024, 2.2.4). */
static void put_word(FILE *f, const char *word)
{
    if (is_plain(word)) {
        fputs(word, f);
        return;
    }
    bool control = has_control(word);
    fputs(control ? "$'" : "'", f);
    for (; *word; word++) {
        if (control && ((unsigned char)*word < 0x20 || *word == 0x7f))
            fprintf(f, "\\%03o", (unsigned)(unsigned char)*word);
        else if (control && (*word == '\'' || *word == '\\'))
            fprintf(f, "\\%c", *word);
        else if (*word == '\'')
            fputs("'\\''", f);
        else
            fputc(*word, f);
    }
    fputc('\'', f);
}

char *strv_to_shell(char *const *argv)
{
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);
    if (!f)
        return NULL;
    for (size_t i = 0; argv && argv[i]; i++) {
        if (i > 0)
            fputc(' ', f);
        put_word(f, argv[i]);
    }
    bool failed = ferror(f) != 0;
    if (fclose(f) != 0 || failed) {
        free(text);
        return NULL;
    }
    return text;
}
