#include "lib/manager/cgroup.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/file.h"
#include "lib/base/parse.h"
#include "lib/base/util.h"
#include "proto/launch.h"

enum { CGROUP_TEXT_MAX = 64 * 1024 };

static char *read_text(const char *path)
{
    char *text = NULL;
    size_t len;

    return file_read(AT_FDCWD, path, CGROUP_TEXT_MAX, &text, &len) < 0 ? NULL : text;
}

static char *read_cgroup(pid_t pid)
{
    auto_free char *path = NULL;

    return str_format(&path, "/proc/%d/cgroup", (int)pid) < 0 ? NULL : read_text(path);
}

/* The path on the line "HIERARCHY:CONTROLLERS:PATH", to the end of the line; NULL: another line. */
static const char *path_on_line(const char *line)
{
    static const char *const systemd[] = { "0::", "name=systemd:" };
    const char *first = strchrnul(line, ':');

    if (has_prefix(line, systemd[0]))
        return line + strlen(systemd[0]);
    if (*first == ':' && has_prefix(first + 1, systemd[1]))
        return first + 1 + strlen(systemd[1]);
    return NULL;
}

static bool path_has(const char *path, size_t len, const char *unit)
{
    size_t n = strlen(unit);

    for (const char *part = memchr(path, '/', len); part; part = memchr(part, '/', len - (size_t)(part - path))) {
        part++;
        if ((size_t)(path + len - part) >= n && memcmp(part, unit, n) == 0 && (part + n == path + len || part[n] == '/'))
            return true;
    }
    return false;
}

bool cgroup_text_is_in_unit(const char *text, const char *unit)
{
    for (const char *line = text; *line; line += line[strcspn(line, "\n")] ? strcspn(line, "\n") + 1 : strlen(line)) {
        const char *path = path_on_line(line);

        if (path && path_has(path, strcspn(path, "\n"), unit))
            return true;
    }
    return false;
}

bool cgroup_pid_is_in_unit(pid_t pid, const char *unit)
{
    auto_free char *text = read_cgroup(pid);

    return text && cgroup_text_is_in_unit(text, unit);
}

size_t cgroup_vm_pids(const char *folder, pid_t *pids, size_t max)
{
    auto_free char *path = NULL, *text = NULL;
    size_t n = 0;
    uint64_t pid;

    if (!folder || !has_prefix(folder, CGROUP_MOUNT "/") || strstr(folder, "/../") || !strstr(folder, "/" CGROUP_PREFIX))
        return 0;
    if (str_format(&path, "%s/cgroup.procs", folder) < 0 || !(text = read_text(path)))
        return 0;
    for (char *line = text, *end; *line && n < max; line = end) {
        end = line + strcspn(line, "\n");
        if (*end)
            *end++ = '\0';
        if (parse_u64(line, 1, INT32_MAX, &pid) >= 0)
            pids[n++] = (pid_t)pid;
    }
    return n;
}

char *cgroup_controllers(pid_t pid)
{
    auto_free char *text = read_cgroup(pid), *path = NULL;
    char *line = text && !has_prefix(text, "0::/") ? strstr(text, "\n0::/") : text;

    /* Of a host with both, v2 is mounted elsewhere and has none. */
    if (!line || access(CGROUP_MOUNT "/cgroup.controllers", F_OK) < 0)
        return NULL;
    line = strchr(line, '/');
    line[strcspn(line, "\n")] = '\0';
    return str_format(&path, CGROUP_MOUNT "%s/cgroup.controllers", line) < 0 ? NULL : read_text(path);
}
