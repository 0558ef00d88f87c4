/* Where the thread that serves faults runs. On a machine with few CPUs it goes where the vCPU is that faults: a wakeup there costs a sixth
 * of one across CPUs (measured: 8 against 48 us a round trip). Where there are many it stays and waits awake instead. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct placement {
    int cpus;          /* on line */
    uint64_t followed; /* when it was last looked at, monotonic us */
};

void placement_init(struct placement *p);
bool placement_is_tight(const struct placement *p); /* few CPUs: follow, don't spin */
/* Puts the calling thread on the CPU that thread `tid` of `pid` last ran on; looks every few milliseconds at most. */
void placement_follow(struct placement *p, pid_t pid, pid_t tid);
