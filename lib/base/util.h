/* Small words every file uses: cleanup attributes, ownership transfer, array length, string comparison. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* The struct of type `type` whose member `member` is at `ptr`. */
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))

/* `auto_X` variables are released at the end of their scope; the function gets the variable's address. */
#define auto_cleanup(f) __attribute__((cleanup(f)))

/* Defines NAME_cleanup(TYPE **) calling FREE, for use as `#define auto_NAME auto_cleanup(NAME_cleanup)`. */
#define DEFINE_CLEANUP(type, name, release)    \
    static inline void name##_cleanup(type *p) \
    {                                          \
        if (*p)                                \
            release(*p);                       \
    }

static inline void free_cleanup(void *p) { free(*(void **)p); }
#define auto_free auto_cleanup(free_cleanup)

/* Moves a pointer out of its variable: `return steal_ptr(&p)` leaves p NULL. */
#define steal_ptr(p)                     \
    ({                                   \
        __typeof__(*(p)) stolen_ = *(p); \
        *(p) = NULL;                     \
        stolen_;                         \
    })

static inline bool streq(const char *a, const char *b) { return strcmp(a, b) == 0; }
static inline bool streq_opt(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }
static inline bool has_prefix(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

/* Replaces *slot by a copy of `s` (NULL allowed). 0 or -ENOMEM, *slot untouched on failure. */
int str_set(char **slot, const char *s);
/* Puts '?' in the place of every byte that isn't part of well-formed UTF-8 (RFC 3629): what other programs say, or a buffer cut, may hold such,
 * and JSON may not. */
void utf8_clean(char *s);

/* FNV-1a, 64 bit (http://www.isthe.com/chongo/tech/comp/fnv/): tells texts apart, is no protection against an adversary. Begin with
 * HASH_BEGIN; pieces hashed one after the other give the hash of the whole. */
#define HASH_BEGIN UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t hash, const void *data, size_t len);
/* asprintf that returns 0 or -ENOMEM and leaves *ret untouched on failure. */
int str_format(char **ret, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
