/* A VM whose spec is gone is stopped, politely and after a grace period (watch.delete_grace); its disks stay. Not when it isn't certain that
 * somebody deleted it: then it is shown, and runs on. */
#pragma once

#include "lib/base/json.h"
#include "lib/manager/vm.h"

struct manager;

enum spec_gone {
    GONE_NO,
    GONE_GRACE,   /* to be stopped at gone_until_us */
    GONE_HELD,    /* nobody knows whether it was deleted */
    GONE_STOPPED, /* the grace is over: wished to be stopped */
};

/* Its spec isn't there any more. */
void spec_gone_begin(struct vm *vm);
/* It is there again. */
void spec_gone_called_off(struct vm *vm);
/* What holds them up may have changed. */
void spec_gone_review(struct manager *m);

/* A line for people, malloc'ed; NULL: nothing to be said. */
char *spec_gone_reason(const struct vm *vm);

/* At the manager's end. */
void spec_gone_end(struct manager *m);

/* Wishes that the VM is stopped because its spec says so, or is gone: undone when the spec says otherwise. Nothing happens to one that is
 * being deleted. */
void wish_stop_by_spec(struct vm *vm);
