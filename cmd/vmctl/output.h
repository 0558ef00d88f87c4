/* What vmctl says: results on stdout, everything else on stderr, never mixed. This is a short-lived program: when memory runs out it
 * says so and ends. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "cmd/vmctl/verb.h"

/* `p`, which isn't NULL, or the end of the program. */
void *must(void *p);
json_t *must_json(json_t *json);

/* One line "vmctl: …" to stderr, whatever is in the arguments. */
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* As complain(), and returns OUTCOME_USAGE, with " (see: vmctl VERB --help)" behind the text. */
enum outcome complain_usage(const struct verb *verb, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* One line for people to stdout; nothing with --json or -q. */
void say(const struct invocation *in, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A document, indented, and a line end. */
void put_json(const json_t *json);
/* One line, out at once: an element of a stream. False when nobody reads any more. */
bool put_json_line(const json_t *json);
/* A line of text, out at once, control characters made harmless. */
bool put_line(const char *line);

/* What it means that put_line() or put_json_line() has just failed: OUTCOME_DONE when the reader has gone, else OUTCOME_FAILED with a
 * message. */
enum outcome output_lost(void);
/* Pushes stdout out and finds out what became of it: OUTCOME_DONE also when the reader has gone (a pager was closed), OUTCOME_FAILED with a
 * message when what was printed got lost. */
enum outcome finish_output(void);

bool color_wanted(const struct invocation *in, int fd);

/* Members of a JSON object that may be absent or null. */
const char *member_text(const json_t *json, const char *key); /* "" when absent */
json_int_t member_int(const json_t *json, const char *key);   /* 0 when absent */
