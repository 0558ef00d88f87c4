#include "lib/manager/watch_set.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/inotify.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/util.h"
#include "lib/manager/spec_folder.h"
#include "lib/manager/watch_paths.h"

enum {
    MASK_SELF = IN_DELETE_SELF | IN_MOVE_SELF,
    MASK_ENTRIES = IN_CREATE | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_DELETE | IN_ATTRIB,
    MASK_LOST = IN_Q_OVERFLOW | IN_IGNORED | IN_UNMOUNT | IN_DELETE_SELF | IN_MOVE_SELF,
    EVENTS_MAX = 8 * 1024, /* bytes read at once */
};

/* Where changes made elsewhere aren't told: magic numbers of statfs(2). */
static const unsigned long quiet_file_systems[] = {
    0x6969,     /* NFS */
    0xff534d42, /* CIFS */
    0xfe534d42, /* SMB2 */
    0x01021997, /* 9p */
    0x65735546, /* FUSE, and with it virtiofs and sshfs */
    0x00c36400, /* Ceph */
    0x5346414f, /* AFS */
    0x47504653, /* GPFS */
    0x0bd00bd0, /* Lustre */
};

struct watch {
    int wd;
    char *name; /* the entry that matters; NULL: any spec, when `what` has it; else the folder itself alone */
    unsigned what;
};

struct watch_set {
    int fd;
    bool incomplete;
    struct watch *items;
    size_t n;
};

int watch_set_new(struct watch_set **ret_set)
{
    struct watch_set *set = calloc(1, sizeof(*set));
    int r;

    if (!set)
        return -ENOMEM;
    set->fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (set->fd < 0) {
        r = -errno;
        free(set);
        return r;
    }
    *ret_set = set;
    return 0;
}

void watch_set_free(struct watch_set *set)
{
    if (!set)
        return;
    for (size_t i = 0; i < set->n; i++)
        free(set->items[i].name);
    free(set->items);
    fd_close(set->fd);
    free(set);
}

int watch_set_fd(const struct watch_set *set) { return set->fd; }
bool watch_set_is_incomplete(const struct watch_set *set) { return set->incomplete; }

static bool is_quiet(const char *path)
{
    struct statfs st;

    if (statfs(path, &st) < 0)
        return true;
    for (size_t i = 0; i < ARRAY_LEN(quiet_file_systems); i++) {
        if ((unsigned long)st.f_type == quiet_file_systems[i])
            return true;
    }
    return false;
}

static int add(struct watch_set *set, const char *folder, uint32_t mask, const char *name, unsigned what)
{
    struct watch *items, watch = { .what = what };

    watch.wd = inotify_add_watch(set->fd, folder, mask | IN_ONLYDIR | IN_MASK_ADD);
    if (watch.wd < 0) {
        set->incomplete = true;
        return 0;
    }
    items = realloc(set->items, (set->n + 1) * sizeof(*items));
    if (!items)
        return -ENOMEM;
    set->items = items;
    if (str_set(&watch.name, name) < 0)
        return -ENOMEM;
    items[set->n++] = watch;
    return 0;
}

int watch_set_add_path(struct watch_set *set, const char *path, enum watch_what what)
{
    auto_watch_places struct watch_places places = { 0 };
    int r = watch_places_add(&places, path, NULL);

    if (r == -ENOMEM)
        return r;
    if (r < 0)
        set->incomplete = true;
    for (size_t i = 0; i < places.n; i++) {
        const struct watch_place *place = &places.items[i];

        r = add(set, place->folder, place->name ? MASK_SELF | MASK_ENTRIES : MASK_SELF, place->name, place->name ? what : WATCH_PATHS);
        if (r < 0)
            return r;
        /* Folders only gone through are told of by the kernel of this host alone, too, but whoever moves those does it here. */
        if (place->name && is_quiet(place->folder))
            set->incomplete = true;
    }
    return 0;
}

int watch_set_add_folder(struct watch_set *set, int fd)
{
    char path[64];

    /* By the fd: what is watched is what is read. */
    snprintf(path, sizeof(path), "/proc/self/fd/%d/.", fd);
    if (is_quiet(path))
        set->incomplete = true;
    return add(set, path, MASK_SELF | MASK_ENTRIES, NULL, WATCH_SPECS);
}

int watch_set_add_links(struct watch_set *set, const char *path, const struct spec_folder *folder)
{
    for (size_t i = 0; i < folder->n; i++) {
        auto_free char *link = NULL;
        int r;

        if (!folder->items[i].link)
            continue;
        r = str_format(&link, "%s/%s", path, folder->items[i].file);
        if (r >= 0)
            r = watch_set_add_path(set, link, WATCH_SPECS | WATCH_PATHS);
        if (r < 0)
            return r;
    }
    return 0;
}

static unsigned classify(const struct watch *w, const struct inotify_event *event)
{
    if (!event->len || w->wd != event->wd)
        return WATCH_NOTHING;
    /* A file that was just made is being written: its close is what counts. A link, or one that comes complete, has no such event, and as
     * a spec is looked at a little later. */
    if (w->name && w->what == WATCH_CONFIG && (event->mask & IN_CREATE))
        return WATCH_NOTHING;
    if (w->name)
        return streq(w->name, event->name) ? w->what : WATCH_NOTHING;
    if (!(w->what & WATCH_SPECS) || !spec_file_is(event->name))
        return WATCH_NOTHING;
    return event->mask & IN_CREATE ? WATCH_BEGUN : WATCH_SPECS;
}

unsigned watch_set_read(struct watch_set *set)
{
    _Alignas(struct inotify_event) char buf[EVENTS_MAX];
    unsigned what = WATCH_NOTHING;
    ssize_t n;

    while ((n = read(set->fd, buf, sizeof(buf))) > 0) {
        for (char *p = buf; p < buf + n;) {
            const struct inotify_event *event = (const struct inotify_event *)(const void *)p;

            if (event->mask & MASK_LOST)
                what |= WATCH_PATHS | WATCH_SPECS | WATCH_CONFIG;
            for (size_t i = 0; i < set->n; i++)
                what |= classify(&set->items[i], event);
            p += sizeof(*event) + event->len;
        }
    }
    return what;
}
