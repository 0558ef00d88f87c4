#include "proto/made_image.h"

#include <string.h>

#include "lib/base/util.h"

bool made_image_is_name(const char *name)
{
    size_t len = strlen(name), tail = 1 + MADE_DIGEST_LEN + strlen(MADE_IMAGE_SUFFIX);
    const char *digest;

    if (len <= tail || !streq(name + len - strlen(MADE_IMAGE_SUFFIX), MADE_IMAGE_SUFFIX) || name[len - tail] != '-')
        return false;
    digest = name + len - tail + 1;
    return strspn(digest, "0123456789abcdef") == MADE_DIGEST_LEN;
}
