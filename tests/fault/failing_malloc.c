/* Linked around a program's own malloc() and jansson's (-Wl,--wrap): the Nth allocation fails, once, or every one from there on.
 *
 * HOLDFAST_FAILPOINT holds malloc.PROGRAM=N or malloc.PROGRAM=N+ (the one variable that a manager hands on to its shims), PROGRAM the comm of the
 * process (proc(5)). libev is left alone: it ends its process when memory is short. */
#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "lib/base/parse.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t size);
char *__real_strdup(const char *s);
char *__real_strndup(const char *s, size_t n);

static _Atomic uint64_t count;
static uint64_t fail_at; /* 0: none fails */
static bool from_there_on;

static bool fails(void)
{
    uint64_t n = atomic_fetch_add(&count, 1) + 1;

    return fail_at != 0 && (n == fail_at || (from_there_on && n > fail_at));
}

void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);
char *__wrap_strdup(const char *s);
char *__wrap_strndup(const char *s, size_t n);

void *__wrap_malloc(size_t size) { return fails() ? NULL : __real_malloc(size); }
void *__wrap_calloc(size_t n, size_t size) { return fails() ? NULL : __real_calloc(n, size); }
void *__wrap_realloc(void *p, size_t size) { return fails() ? NULL : __real_realloc(p, size); }
char *__wrap_strdup(const char *s) { return fails() ? NULL : __real_strdup(s); }
char *__wrap_strndup(const char *s, size_t n) { return fails() ? NULL : __real_strndup(s, n); }

__attribute__((constructor)) static void begin(void)
{
    const char *env = getenv("HOLDFAST_FAILPOINT");
    char comm[16] = "", key[32], number[32] = "";
    const char *value;
    size_t len;

    json_set_alloc_funcs(__wrap_malloc, free);
    if (!env || prctl(PR_GET_NAME, comm) < 0)
        return;
    (void)snprintf(key, sizeof(key), "malloc.%s=", comm);
    value = strstr(env, key);
    if (!value)
        return;
    value += strlen(key);
    len = strcspn(value, ",+");
    if (len < sizeof(number)) {
        memcpy(number, value, len);
        number[len] = '\0';
    }
    if (parse_u64(number, 1, UINT64_MAX, &fail_at) < 0)
        abort(); /* a test that misspells its number must not pass for want of a fault */
    from_there_on = value[len] == '+';
}
