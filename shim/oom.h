/* Did the kernel's OOM killer end QEMU? A SIGKILL nobody here sent looks the same from outside; the count of OOM kills in QEMU's memory cgroup
 * tells (memory.events of v2, memory.oom_control of v1: cgroup-v2 and memory controller documents of the kernel). */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct oom_watch {
    char *file; /* where the count stands, NULL: this host doesn't count for this process */
    uint64_t before;
};

/* Notes the count as it is now, for a living process (a dead one's v1 cgroup is no longer told). -ENOMEM; 0 also when there is no count. */
int oom_watch_begin(struct oom_watch *w, pid_t pid);
/* Whether it has grown since. */
bool oom_watch_struck(const struct oom_watch *w);
void oom_watch_done(struct oom_watch *w);
