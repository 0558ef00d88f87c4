#include "lib/images/names.h"

#include "lib/base/util.h"

#define LETTERS_LOWER "abcdefghijklmnopqrstuvwxyz"
#define LETTERS_UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

bool image_name_is_valid(const char *s)
{
    size_t len = strlen(s);

    return len >= 1 && len <= IMAGE_NAME_MAX && strspn(s, LETTERS_LOWER LETTERS_UPPER DIGITS "._+-") == len && !strchr("._+-", s[0]);
}

bool image_version_is_valid(const char *s) { return image_name_is_valid(s) && !streq(s, IMAGE_AUTO); }

bool image_role_is_valid(const char *s)
{
    size_t len = strlen(s);

    return len >= 1 && len <= IMAGE_ROLE_MAX && strspn(s, LETTERS_LOWER DIGITS "_") == len && strchr(LETTERS_LOWER, s[0]);
}

bool image_sha256_is_valid(const char *s) { return strlen(s) == IMAGE_SHA256_LEN && strspn(s, DIGITS "abcdef") == IMAGE_SHA256_LEN; }
