/* Work that may block (fsync, a file server that is slow), done on a thread of its own while the loop goes on. */
#pragma once

#include "lib/base/err.h"
#include "lib/loop/loop.h"

struct task;

struct task_work {
    int (*run)(void *arg, struct err *err);                /* on the thread: touches nothing of the loop's, logs and tells nothing */
    void (*done)(void *arg, int r, const struct err *err); /* on the loop, with what it returned */
    void *arg;
};

/* *slot is the task until `done` is called, NULL then. 0 or -errno. */
int task_start(struct loop *l, const struct task_work *work, struct task **slot);
/* Waits for it, and `done` isn't called. Fine on NULL. */
void task_join(struct task **slot);
