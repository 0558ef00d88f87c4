/* What to do about a VM: a pure decision from facts, and its execution. */
#pragma once

#include "lib/manager/vm.h"

enum action {
    ACTION_NONE,
    ACTION_LAUNCH,
    ACTION_STOP,
    ACTION_FORGET, /* finish a delete */
    ACTION_ADOPT,  /* start a shim for a QEMU that has lost its own */
};

struct facts {
    enum presence presence;
    bool launching;
    bool adopt_later; /* an adoption was in vain, and the next try has its time */
    int wish;         /* enum vm_wanted */
    uint64_t from;
    bool deleting;
    bool saved; /* the wish is on disk */
    bool has_spec;
    bool unclear;
    bool gave_up;
    bool draining; /* nothing is started */
    uint64_t incarnation;
    bool answered; /* state is what the shim says now */
    int state;     /* enum vm_state, when answered */
    bool stop_due;
    uint64_t stop_sent;
    bool exit_known; /* of `incarnation` */
    bool exit_final;
    bool restore_due;  /* the life to come begins from a snapshot */
    bool restore_open; /* `incarnation` was to begin from a snapshot, and was never seen to run */
};

enum action decide(const struct facts *f);

/* Decides and acts; called through vm_changed(). */
void reconcile_vm(struct vm *vm);
/* The back-off is over. */
void reconcile_relaunch(struct vm *vm);

/* A launch failed or a life ended unexplained: counts, and gives up after RELAUNCH_ATTEMPTS. */
void reconcile_failure(struct vm *vm);
/* Somebody asked: failures are forgotten, waiting ends. */
void reconcile_fresh(struct vm *vm);
