/* Force-included before every translation unit: functions whose errors can't be seen, or whose bounds can't be given,
 * don't compile here. The libc headers that declare or inline them are read first, so that only our uses are caught.
 * What to use instead: lib/base/parse.h for numbers, asprintf/snprintf and strv for text, memcpy with a known length. */
#pragma once

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include <wchar.h>

#ifndef HOLDFAST_BANNED_OFF
/* With _FORTIFY_SOURCE some are macros, and clang doesn't poison those. */
#undef sprintf
#undef vsprintf
#undef strcpy
#undef strcat
#undef strncpy
#undef strncat
#pragma GCC poison atoi atol atoll atof strtol strtoul strtoll strtoull sscanf fscanf strtok strtok_r
#pragma GCC poison sprintf vsprintf strcpy strcat strncpy strncat gets tmpnam tempnam mktemp asctime ctime localtime gmtime
#endif
