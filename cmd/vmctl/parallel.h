/* Many calls at once, each on its own connection, so that one that takes its time delays no other. */
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/varlink/client.h"

enum { PARALLEL_MAX = 64 }; /* connections open at a time; the service allows more per user */

enum task_phase { TASK_WAITING, TASK_OPEN, TASK_ENDED };

struct task {
    const char *name; /* the caller's */
    enum task_phase phase;
    uint64_t begun_us;             /* monotonic, when it was first tried */
    bool connected;                /* whether there was somebody to ask at all */
    struct varlink_client *client; /* while open */
    int result;                    /* of the call, as varlink_client_next() gives it; -ETIMEDOUT when time ran out */
    char *error;                   /* full name of the Varlink error when result is -EREMOTEIO */
    json_t *reply;                 /* the last reply, or the error's parameters */
    struct err err;
    char *progress; /* the caller's, freed by tasks_free() */
};

struct parallel {
    struct task *tasks;
    size_t n;
    const char *method; /* full name */
    int64_t timeout_ms; /* for each call, negative: none */
    /* The socket of a task, malloc'ed. */
    char *(*socket)(void *arg, const struct task *t);
    /* The call's parameters, a new reference. */
    json_t *(*parameters)(void *arg, const struct task *t);
    /* A continued reply. True ends the task as if that had been the final one. May be NULL: every reply is final. */
    bool (*progress)(void *arg, struct task *t, const json_t *reply);
    void (*ended)(void *arg, struct task *t); /* may be NULL */
    void (*tick)(void *arg);                  /* about once a second; may be NULL */
    void *arg;
};

/* Returns when every task has ended. */
void parallel_run(struct parallel *p);

struct task *tasks_new(char *const *names, size_t n);
void tasks_free(struct task *tasks, size_t n);
