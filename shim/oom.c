#include "shim/oom.h"

#include <errno.h>
#include <fcntl.h>

#include "lib/base/file.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/launch.h"

enum { FILE_MAX = 64 * 1024 };

/* How a line of /proc/PID/cgroup begins ("0::/path", "4:memory:/path"), and the file of that hierarchy that has the count. */
static const struct {
    const char *controllers; /* between the colons */
    const char *mount, *file;
} hierarchies[] = {
    { "memory", CGROUP_MOUNT "/memory", "memory.oom_control" },
    { "", CGROUP_MOUNT, "memory.events" },
    { "", CGROUP_MOUNT "/unified", "memory.events" },
};

static int read_count(const char *path, uint64_t *ret_count)
{
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(AT_FDCWD, path, FILE_MAX, &text, &len);
    char *line;

    if (r < 0)
        return r;
    line = strncmp(text, "oom_kill ", 9) == 0 ? text : strstr(text, "\noom_kill ");
    if (!line)
        return -ENODATA;
    line += *line == '\n' ? 10 : 9;
    line[strcspn(line, "\n")] = '\0';
    return parse_u64(line, 0, UINT64_MAX, ret_count);
}

/* The path behind "N:CONTROLLERS:" in the text of /proc/PID/cgroup, malloc'ed; NULL when that hierarchy isn't there. */
static char *path_in(const char *text, const char *controllers)
{
    size_t len = strlen(controllers);

    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        const char *colon = strchr(line, ':');

        if (colon && strncmp(colon + 1, controllers, len) == 0 && colon[1 + len] == ':')
            return strndup(colon + len + 2, strcspn(colon + len + 2, "\n"));
    }
    return NULL;
}

/* The process's own cgroup, or the nearest above it that counts: controllers need not reach all the way down. */
static int find_count(const char *mount, char *path, const char *file, struct oom_watch *w)
{
    for (;;) {
        auto_free char *name = NULL;
        char *slash;

        if (str_format(&name, "%s%s/%s", mount, streq(path, "/") ? "" : path, file) < 0)
            return -ENOMEM;
        if (read_count(name, &w->before) >= 0) {
            w->file = steal_ptr(&name);
            return 1;
        }
        slash = strrchr(path, '/');
        if (!slash || !*path || streq(path, "/"))
            return 0;
        *slash = '\0';
    }
}

int oom_watch_begin(struct oom_watch *w, pid_t pid)
{
    auto_free char *name = NULL, *text = NULL;
    size_t len;
    int r = str_format(&name, "/proc/%d/cgroup", (int)pid);

    oom_watch_done(w);
    if (r < 0 || file_read(AT_FDCWD, name, FILE_MAX, &text, &len) < 0)
        return r < 0 ? r : 0;
    for (size_t i = 0; i < ARRAY_LEN(hierarchies) && !w->file; i++) {
        auto_free char *path = path_in(text, hierarchies[i].controllers);

        r = path ? find_count(hierarchies[i].mount, path, hierarchies[i].file, w) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

bool oom_watch_struck(const struct oom_watch *w)
{
    uint64_t now;

    return w->file && read_count(w->file, &now) >= 0 && now > w->before;
}

void oom_watch_done(struct oom_watch *w) { free(steal_ptr(&w->file)); }
