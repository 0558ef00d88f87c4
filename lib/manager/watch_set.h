/* inotify(7) on everything that the specs and the host config depend on: their folders, the way there, and what links among them lead to. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lib/base/err.h"

struct spec_folder;

/* What an event is about. */
enum watch_what {
    WATCH_NOTHING = 0,
    WATCH_SPECS = 1 << 0,  /* a spec was written, renamed or deleted */
    WATCH_BEGUN = 1 << 1,  /* a spec is there and perhaps still being written */
    WATCH_CONFIG = 1 << 2, /* the host config */
    WATCH_PATHS = 1 << 3,  /* what is watched may not be what counts any more: make a new set */
};

struct watch_set;

/* An empty one. -EMFILE, -ENOSYS…: there is no inotify to be had. */
int watch_set_new(struct watch_set **ret_set);
void watch_set_free(struct watch_set *set);
int watch_set_fd(const struct watch_set *set);

/* Each of these may block. What can't be watched makes the set incomplete, which is no failure; -errno is for lack of memory. */
int watch_set_add_path(struct watch_set *set, const char *path, enum watch_what what);
/* The open folder of specs itself. */
int watch_set_add_folder(struct watch_set *set, int fd);
/* What the links in it lead to. */
int watch_set_add_links(struct watch_set *set, const char *path, const struct spec_folder *folder);

/* Something isn't watched, or its file system doesn't tell what happens on other hosts: it must be looked at from time to time. */
bool watch_set_is_incomplete(const struct watch_set *set);

/* Reads all that has happened: bits of enum watch_what. */
unsigned watch_set_read(struct watch_set *set);
