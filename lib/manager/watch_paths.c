#include "lib/manager/watch_paths.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/util.h"

enum { LINKS_MAX = 40 }; /* as the kernel's own MAXSYMLINKS */

static int add(struct watch_places *places, const char *folder, const char *name)
{
    struct watch_place *items, place = { 0 };

    for (size_t i = 0; i < places->n; i++) {
        if (streq(places->items[i].folder, folder) && streq_opt(places->items[i].name, name))
            return 0;
    }
    items = realloc(places->items, (places->n + 1) * sizeof(*items));
    if (!items)
        return -ENOMEM;
    places->items = items;
    if (str_set(&place.folder, folder) < 0 || str_set(&place.name, name) < 0) {
        free(place.folder);
        return -ENOMEM;
    }
    items[places->n++] = place;
    return 0;
}

struct walk {
    char at[PATH_MAX];   /* the folder come to, "" for the root */
    char rest[PATH_MAX]; /* the path from there */
    unsigned links;
};

static const char *folder_of(const struct walk *w) { return w->at[0] ? w->at : "/"; }

/* The path goes on at the target of the link `name`. */
static int follow(struct walk *w, const char *link, const char *rest)
{
    char target[PATH_MAX], path[PATH_MAX];
    ssize_t n = readlink(link, target, sizeof(target) - 1);

    if (n < 0)
        return -errno;
    if (++w->links > LINKS_MAX)
        return -ELOOP;
    target[n] = '\0';
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", target, rest) >= sizeof(path))
        return -ENAMETOOLONG;
    memcpy(w->rest, path, sizeof(path));
    if (target[0] == '/')
        w->at[0] = '\0';
    return 0;
}

/* Takes the next name off w->rest into `name`; false: there is none. */
static bool next_name(struct walk *w, char name[NAME_MAX + 1], const char **ret_rest)
{
    char *begin = w->rest + strspn(w->rest, "/");
    size_t len = strcspn(begin, "/");

    if (len == 0 || len > NAME_MAX)
        return false;
    memcpy(name, begin, len);
    name[len] = '\0';
    *ret_rest = begin + len;
    return true;
}

/* 1: go on, 0: the end. */
static int step(struct walk *w, struct watch_places *places, const char *name, const char *rest, bool *there)
{
    char path[PATH_MAX], copy[PATH_MAX];
    bool last = rest[strspn(rest, "/")] == '\0';
    struct stat st;
    int r;

    snprintf(copy, sizeof(copy), "%s", rest);
    if (streq(name, ".") || streq(name, "..")) {
        char *slash = streq(name, "..") ? strrchr(w->at, '/') : NULL;

        if (slash)
            *slash = '\0';
        memcpy(w->rest, copy, sizeof(copy));
        return 1;
    }
    if ((size_t)snprintf(path, sizeof(path), "%s/%s", w->at, name) >= sizeof(path))
        return -ENAMETOOLONG;
    r = lstat(path, &st) < 0 ? -errno : 0;
    if (r >= 0 && !last && !S_ISDIR(st.st_mode) && !S_ISLNK(st.st_mode))
        r = -ENOTDIR;
    if (r < 0 || last || S_ISLNK(st.st_mode)) {
        int added = add(places, folder_of(w), name);

        if (added < 0)
            return added;
    }
    if (r < 0)
        return 0; /* broken off; what is to come there is seen to come */
    if (S_ISLNK(st.st_mode)) {
        r = follow(w, path, copy);
        return r < 0 ? r : 1;
    }
    memcpy(w->at, path, sizeof(path));
    memcpy(w->rest, copy, sizeof(copy));
    *there = last;
    return 1;
}

int watch_places_add(struct watch_places *places, const char *path, bool *ret_there)
{
    struct walk w = { .links = 0 };
    char name[NAME_MAX + 1];
    const char *rest;
    bool there = false;
    int r = 1;

    if ((size_t)snprintf(w.rest, sizeof(w.rest), "%s", path) >= sizeof(w.rest))
        return -ENAMETOOLONG;
    while (r > 0 && next_name(&w, name, &rest)) {
        /* That the folder stays where it is: one that is renamed takes along what is below it. */
        r = add(places, folder_of(&w), NULL);
        if (r >= 0)
            r = step(&w, places, name, rest, &there);
    }
    if (r < 0)
        return r;
    if (ret_there)
        *ret_there = there;
    return 0;
}

void watch_places_clear(struct watch_places *places)
{
    for (size_t i = 0; i < places->n; i++) {
        free(places->items[i].folder);
        free(places->items[i].name);
    }
    free(places->items);
    *places = (struct watch_places){ 0 };
}
