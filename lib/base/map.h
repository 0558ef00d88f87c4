/* String → pointer, keys copied, values the caller's (uthash underneath, https://troydhanson.github.io/uthash/). Iteration is in
 * insertion order and survives deletion of the current entry. */
#pragma once

#include <stddef.h>

#include "lib/base/util.h"

struct map;

int map_new(struct map **ret_map);
void map_free(struct map *m); /* frees keys; values are the caller's */
DEFINE_CLEANUP(struct map *, map, map_free)
#define auto_map auto_cleanup(map_cleanup)

void *map_get(const struct map *m, const char *key);      /* NULL when absent */
int map_put(struct map *m, const char *key, void *value); /* -EEXIST, -ENOMEM; value must not be NULL */
void *map_remove(struct map *m, const char *key);         /* the value, or NULL when absent */
size_t map_len(const struct map *m);

struct map_entry;
struct map_entry *map_first(const struct map *m);
struct map_entry *map_next(const struct map_entry *e);
const char *map_key(const struct map_entry *e);
void *map_value(const struct map_entry *e);

/* for (struct map_entry *e = map_first(m), *next = e ? map_next(e) : NULL; e; …) in one word. */
#define map_foreach(m, e) \
    for (struct map_entry *e = map_first(m), *next_ = e ? map_next(e) : NULL; e; e = next_, next_ = e ? map_next(e) : NULL)
