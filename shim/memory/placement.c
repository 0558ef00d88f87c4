#include "shim/memory/placement.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/fd.h"

enum {
    FEW_CPUS = 4,
    FOLLOW_EVERY_US = 5 * 1000,
    FIELD_CPU = 39, /* of /proc/PID/task/TID/stat, proc(5) */
};

void placement_init(struct placement *p) { *p = (struct placement){ .cpus = (int)sysconf(_SC_NPROCESSORS_ONLN) }; }

bool placement_is_tight(const struct placement *p) { return p->cpus <= FEW_CPUS; }

/* -1: not known. */
static int cpu_of(pid_t pid, pid_t tid)
{
    char path[64], text[1024], *p;
    auto_fd int fd = -1;
    ssize_t n;
    int cpu = 0;

    (void)snprintf(path, sizeof(path), "/proc/%d/task/%d/stat", (int)pid, (int)tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return -1;
    text[n] = '\0';
    p = strrchr(text, ')');
    for (int field = 2; p && field < FIELD_CPU; field++)
        p = strchr(p + 1, ' ');
    if (!p)
        return -1;
    for (p++; *p >= '0' && *p <= '9' && cpu < CPU_SETSIZE; p++)
        cpu = cpu * 10 + (*p - '0');
    return cpu < CPU_SETSIZE ? cpu : -1;
}

void placement_follow(struct placement *p, pid_t pid, pid_t tid)
{
    uint64_t now;
    cpu_set_t set;
    int cpu;

    if (!placement_is_tight(p))
        return;
    now = clock_mono_us();
    if (now - p->followed < FOLLOW_EVERY_US)
        return;
    p->followed = now;
    cpu = cpu_of(pid, tid);
    if (cpu < 0 || cpu == sched_getcpu())
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)cpu, &set);
    (void)sched_setaffinity(0, sizeof(set), &set); /* refused by a cpuset, for one: then it stays where it is */
}
