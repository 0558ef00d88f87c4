#include "cmd/vmctl/output.h"

#include <errno.h>
#include <stdarg.h>
#include <sys/ioctl.h>

#include "cmd/vmctl/text.h"
#include "lib/base/util.h"

void *must(void *p)
{
    if (!p) {
        fputs("vmctl: out of memory\n", stderr);
        _exit(OUTCOME_FAILED);
    }
    return p;
}

json_t *must_json(json_t *json) { return must(json); }

static void complain_args(const char *tail, const char *fmt, va_list args) __attribute__((format(printf, 2, 0)));
static void complain_args(const char *tail, const char *fmt, va_list args)
{
    auto_free char *text = NULL;

    if (vasprintf(&text, fmt, args) < 0)
        must(NULL);
    auto_free char *line = text_one_line(text);
    (void)fflush(stdout);
    fprintf(stderr, "vmctl: %s%s\n", line, tail);
}

void complain(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    complain_args("", fmt, args);
    va_end(args);
}

enum outcome complain_usage(const struct verb *verb, const char *fmt, ...)
{
    auto_free char *tail = NULL;
    va_list args;

    if (str_format(&tail, " (see: vmctl %s%s--help)", verb ? verb->name : "", verb ? " " : "") < 0)
        must(NULL);
    va_start(args, fmt);
    complain_args(tail, fmt, args);
    va_end(args);
    return OUTCOME_USAGE;
}

void say(const struct invocation *in, const char *fmt, ...)
{
    auto_free char *text = NULL;
    va_list args;

    if (in->json || in->quiet)
        return;
    va_start(args, fmt);
    int r = vasprintf(&text, fmt, args);
    va_end(args);
    if (r < 0)
        must(NULL);
    put_line(text);
}

void put_json(const json_t *json)
{
    json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
    putchar('\n');
}

bool put_json_line(const json_t *json)
{
    json_dumpf(json, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
    putchar('\n');
    return fflush(stdout) == 0;
}

bool put_line(const char *line)
{
    auto_free char *clean = text_one_line(line);

    puts(clean);
    return fflush(stdout) == 0;
}

enum outcome output_lost(void)
{
    if (errno == EPIPE || errno == 0)
        return OUTCOME_DONE;
    complain("standard output: %s", strerror(errno));
    return OUTCOME_FAILED;
}

enum outcome finish_output(void)
{
    errno = 0;
    return fflush(stdout) == 0 && !ferror(stdout) ? OUTCOME_DONE : output_lost();
}

bool color_wanted(const struct invocation *in, int fd)
{
    const char *none = getenv("NO_COLOR"), *term = getenv("TERM");

    return !in->no_color && !(none && *none) && term && !streq(term, "dumb") && isatty(fd);
}

const char *member_text(const json_t *json, const char *key)
{
    const char *s = json_string_value(json_object_get(json, key));

    return s ? s : "";
}

json_int_t member_int(const json_t *json, const char *key) { return json_integer_value(json_object_get(json, key)); }
