#include "lib/images/base64.h"

#include <errno.h>

static int digit(char c)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *found = c ? strchr(digits, c) : NULL;

    return found ? (int)(found - digits) : -1;
}

int base64_decode(const char *text, size_t text_len, uint8_t *ret_data, size_t len)
{
    size_t digits = (len * 8 + 5) / 6, at = 0;
    uint32_t bits = 0;
    unsigned n_bits = 0;

    if (text_len != (len + 2) / 3 * 4)
        return -EINVAL;
    for (size_t i = 0; i < digits; i++) {
        int value = digit(text[i]);

        if (value < 0)
            return -EINVAL;
        bits = bits << 6 | (uint32_t)value;
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            ret_data[at++] = (uint8_t)(bits >> n_bits);
        }
    }
    if (bits & ((1U << n_bits) - 1))
        return -EINVAL;
    for (size_t i = digits; i < text_len; i++)
        if (text[i] != '=')
            return -EINVAL;
    return 0;
}
