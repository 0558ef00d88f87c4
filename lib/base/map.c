#include "lib/base/map.h"

#include <errno.h>

/* Out of memory is told, not fatal. One-at-a-time, since the default function's switch has unmarked fall-throughs. */
#define HASH_NONFATAL_OOM 1
#define HASH_FUNCTION HASH_OAT
#include <uthash.h>

struct map_entry {
    UT_hash_handle hh;
    void *value;
    char key[];
};

struct map {
    struct map_entry *head;
};

int map_new(struct map **ret_map)
{
    struct map *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    *ret_map = m;
    return 0;
}

void map_free(struct map *m)
{
    if (!m)
        return;
    struct map_entry *e, *next;
    HASH_ITER (hh, m->head, e, next) {
        HASH_DEL(m->head, e); /* NOLINT(clang-analyzer-unix.Malloc): the analyzer loses the list in the macro */
        free(e);
    }
    free(m);
}

static struct map_entry *find(const struct map *m, const char *key)
{
    struct map_entry *e;
    HASH_FIND_STR(m->head, key, e);
    return e;
}

void *map_get(const struct map *m, const char *key)
{
    const struct map_entry *e = find(m, key);
    return e ? e->value : NULL;
}

/* NOLINTNEXTLINE(readability-function-size): uthash is macros */
int map_put(struct map *m, const char *key, void *value)
{
    if (!value)
        return -EINVAL;
    if (find(m, key))
        return -EEXIST;
    size_t len = strlen(key);
    struct map_entry *e = calloc(1, sizeof(*e) + len + 1);
    if (!e)
        return -ENOMEM;
    memcpy(e->key, key, len + 1);
    e->value = value;
    HASH_ADD_KEYPTR(hh, m->head, e->key, len, e);
    if (!e->hh.tbl) {
        free(e);
        return -ENOMEM;
    }
    return 0;
}

void *map_remove(struct map *m, const char *key)
{
    struct map_entry *e = find(m, key);
    if (!e)
        return NULL;
    void *value = e->value;
    HASH_DEL(m->head, e);
    free(e);
    return value;
}

size_t map_len(const struct map *m) { return HASH_COUNT(m->head); }

struct map_entry *map_first(const struct map *m) { return m->head; }

struct map_entry *map_next(const struct map_entry *e) { return e->hh.next; }

const char *map_key(const struct map_entry *e) { return e->key; }

void *map_value(const struct map_entry *e) { return e->value; }
