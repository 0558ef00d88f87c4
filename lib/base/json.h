/* jansson with our ownership words, and the two things each user would write again. */
#pragma once

#include <jansson.h>
#include <stddef.h>

#include "lib/base/err.h"
#include "lib/base/util.h"

DEFINE_CLEANUP(json_t *, json, json_decref)
#define auto_json auto_cleanup(json_cleanup)

enum { JSON_DEPTH_MAX = 64 };

/* Parses exactly one JSON value of `len` bytes. Duplicate keys, NUL in strings, trailing text and nesting deeper than
 * JSON_DEPTH_MAX are refused (checked before jansson's recursive descent sees them). -EINVAL with id "bad-json" and a
 * text of the form "line 3, column 14: unexpected token near '}'". */
int json_parse(const char *text, size_t len, json_t **ret_json, struct err *err);

/* A string value. -EINVAL when `text` isn't UTF-8, -ENOMEM. */
int json_make_string(const char *text, json_t **ret_json);

/* Compact text in one malloc'ed NUL-ended string. -ENOMEM. */
int json_format(const json_t *json, char **ret_text, size_t *ret_len);
/* The same on several lines, for people. */
int json_format_indented(const json_t *json, char **ret_text, size_t *ret_len);

/* SHA-256-free, stable digest of a value: 16 hex digits of FNV-1a over its compact form with sorted keys. It tells "changed"
 * from "unchanged"; it is no protection against an adversary. */
int json_digest(const json_t *json, char ret_hex[17]);
