/* Which cgroup a process is in, by /proc/PID/cgroup (cgroups(7)). No state; reads nothing that could block. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Whether `text`, a /proc/PID/cgroup, says that the process is in the systemd unit or in a cgroup below it: by cgroup v2, or by systemd's own
 * hierarchy of v1. (pure) */
bool cgroup_text_is_in_unit(const char *text, const char *unit);
bool cgroup_pid_is_in_unit(pid_t pid, const char *unit);

/* All processes in the VM's own cgroup `folder`, as its status names it. Anything else than a VM's cgroup has none. How many, at most `max`. */
size_t cgroup_vm_pids(const char *folder, pid_t *pids, size_t max);

/* The controllers the process's cgroup has, "cpu io memory pids\n", malloc'ed; NULL where that can't be told: it has them in v1. */
char *cgroup_controllers(pid_t pid);
