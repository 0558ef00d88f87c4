/* Restarts that edited specs, or newer releases of images, ask for: one at a time over all VMs, each waiting until the one before runs or has failed, and then
 * watch.restart_interval. */
#pragma once

#include "lib/manager/vm.h"

struct manager;
struct rollout;

int rollout_new(struct manager *m); /* -ENOMEM */
void rollout_free(struct rollout *r);

enum rollout_why { ROLLOUT_EDIT, ROLLOUT_IMAGE };

/* The VM waits for its turn; one that does already keeps it. */
void rollout_add(struct vm *vm, enum rollout_why why);
/* Not for an edit any more: what it runs by is what its spec says. */
void rollout_drop(struct vm *vm);

/* Something about a VM that waits has changed. */
void rollout_check(struct vm *vm);
/* Something that VMs hold, or what they may hold, has become more: those that could not have been started again are looked at once more. */
void rollout_retry(struct manager *m);

/* A restart may be under way that an earlier manager began: the next one waits for an interval. */
void rollout_wait(struct manager *m);

/* A line for people, malloc'ed; NULL: it waits for nothing. */
char *rollout_reason(const struct vm *vm);
