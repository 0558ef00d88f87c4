/* Names of images and of their releases: checked before any of them becomes part of a path. */
#pragma once

#include <stdbool.h>

enum { IMAGE_NAME_MAX = 128, IMAGE_ROLE_MAX = 32, IMAGE_SHA256_LEN = 64 };

#define IMAGE_NAME_RULE "1 to 128 of letters, digits, '.', '_', '+', '-', beginning with a letter or digit"
/* Of an image, of a release, or of a file of one: they can't leave their folder, and aren't hidden. */
bool image_name_is_valid(const char *s);
/* The word for the newest release: no release's name. */
#define IMAGE_AUTO "auto"
bool image_version_is_valid(const char *s);

/* A key of the manifest: 1 to 32 of a-z, 0-9, '_', beginning with a letter. */
bool image_role_is_valid(const char *s);
/* 64 hex digits in lower case. */
bool image_sha256_is_valid(const char *s);
