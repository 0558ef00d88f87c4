/* Which folders must be watched for a path to lead somewhere else: renamed, removed, made, a link switched on the way. No inotify here. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

/* A folder, and what in it the path depends on. */
struct watch_place {
    char *folder; /* absolute, with no link in it */
    char *name;   /* the entry that matters; NULL: the folder itself alone, that it stays where it is */
};

struct watch_places {
    struct watch_place *items;
    size_t n;
};

/* Follows an absolute path as the kernel does (path_resolution(7)) and adds the places on the way: each folder it goes through; the entry
 * where a link is, or where it ends, or where it is broken off. *ret_there (may be NULL): something is at its end. -ELOOP, -ENOMEM,
 * -ENAMETOOLONG. Blocks; safe on any thread. */
int watch_places_add(struct watch_places *places, const char *path, bool *ret_there);
void watch_places_clear(struct watch_places *places);
#define auto_watch_places __attribute__((cleanup(watch_places_clear)))
