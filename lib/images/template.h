/* Texts with {placeholders}: URLs of files, words of commands. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "lib/base/err.h"

struct template_value {
    const char *key;
    const char *value; /* NULL: "" */
};

/* Every placeholder must be one of `values`. With `url` what is put in is percent-encoded but for '/' (RFC 3986). -EINVAL, -ENOMEM. */
int template_expand(const char *text, const struct template_value *values, size_t n, bool url, char **ret_text, struct err *err);
