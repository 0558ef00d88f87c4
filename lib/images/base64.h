/* Base64 as in RFC 4648, section 4: one line, padded. */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* Exactly `len` bytes must come of the text. -EINVAL. */
int base64_decode(const char *text, size_t text_len, uint8_t *ret_data, size_t len);
