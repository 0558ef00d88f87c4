/* Restoring VMs from a snapshot: one under a name of its own or another, or several clones. Nothing is changed until all of them are
 * known to work, as far as that can be told without trying; then specs that are to be made are written, and each VM is wished to begin
 * from the snapshot. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/manager/vm.h"

struct manager;

enum { RESTORE_TARGETS_MAX = 256 };

struct restore_target {
    char *name;
    struct vm *vm;   /* a reference; of a name that is new one that isn't in the registry yet */
    json_t *spec;    /* made for it, NULL: it has one */
    bool needs_spec; /* none of its own */
    bool written;    /* the spec made for it is on disk */
    uint64_t target; /* begun: the incarnation it will be … */
    uint32_t write;  /* … and the write of that wish */
};

struct restore {
    struct manager *manager;
    struct wanted_restore from; /* snapshot and mode; its `from` isn't used */
    bool force;                 /* what runs is stopped first */
    bool fresh;                 /* all names must be new ones */
    struct restore_target *targets;
    size_t n_targets;
    json_t *notes; /* lines for the operator */
    /* How it ended, for `done`: 0 and all are wished for, or -errno. err.id "refused", "no-snapshot", or another; `problems` when a spec
     * is at fault; `unresponsive` when the shim of targets[0] is. */
    int r;
    struct err err;
    json_t *problems;
    bool unresponsive;
    void (*done)(struct restore *r);
    void *arg;
    size_t planned; /* what is out */
    struct restore_job *job;
};

/* Empty, for restore_add(). NULL: out of memory. mode: enum restore_mode. */
struct restore *restore_new(struct manager *m, const char *vm, const char *snapshot, int mode);
int restore_add(struct restore *r, const char *name);
void restore_free(struct restore *r);

/* `done` is called on the loop, perhaps at once. */
void restore_begin(struct restore *r);
