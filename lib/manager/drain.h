/* Draining the host: every guest is shut down, newest first, some at a time, and no VM is started, until the host has rebooted or the drain
 * is called off. What is wanted doesn't change: each VM is wished to begin its next life, which it does then.
 *
 * RUN/draining says so to the next manager, should this one die meanwhile: it names the boot, since not every run folder goes with one. */
#pragma once

#include <stdbool.h>

#include "lib/manager/vm.h"

enum { DRAIN_PARALLEL = 8, DRAIN_PARALLEL_MAX = 1024 };

/* At the manager's start: goes on with a drain of this boot. */
void drain_resume(struct manager *m);
/* Something has changed: the next VMs are asked to stop, and when none is left, who waits is told. Fine when there is no drain. */
void drain_step(struct manager *m);
/* At the manager's end: calls that wait are forgotten. */
void drain_clear(struct manager *m);

/* "BOOT-ID PARALLEL" as in the marker: how many at a time, or -ESTALE: of another boot, -EINVAL: neither. (pure) */
int drain_marker_parse(const char *text, const char *boot_id);
