/* A snapshot under way: for snapshot*.c only. */
#pragma once

#include "lib/base/fd.h"
#include "lib/loop/loop.h"
#include "proto/memory_image.h"
#include "proto/snapshot.h"
#include "shim/memory/save.h"
#include "shim/snapshot.h"
#include "shim/task.h"

struct snapshot_disks;

enum snapshot_step {
    SNAPSHOT_LOOK,    /* whether QEMU can save it now */
    SNAPSHOT_DISKS,   /* new files for what the guest will write from then on */
    SNAPSHOT_PROTECT, /* its RAM, while it runs */
    SNAPSHOT_STOP,    /* the guest */
    SNAPSHOT_FREEZE_DISKS,
    SNAPSHOT_STATE, /* of the devices */
    SNAPSHOT_CONT,
    SNAPSHOT_COPY,
    SNAPSHOT_ENDING, /* undone, or done */
};

struct snapshot_job {
    struct vm *vm;
    struct snapshot_watcher watcher; /* ended NULL: nobody */
    enum snapshot_step step;
    bool refused; /* QEMU answered the last command with an error */
    struct snapshot record;
    char *folder, *tmp_name;         /* absolute; of the temporary folder beside it */
    int parent, dir;                 /* the folder of the VM's snapshots; the temporary one */
    int state_fd, memory_fd, mem_fd; /* device.state, memory.raw, /proc/PID/mem */
    bool live, was_running;          /* as asked; the guest ran when it was stopped */
    bool held;                       /* the guest stands still for us */
    bool migrating, saved;           /* its device state is on the way to disk; is there */
    uint64_t stopped_us;             /* when, monotonic */
    struct memory_index *index, *source_index;
    uint64_t *missing; /* save_config.from_source */
    size_t n_missing;
    struct save *save;
    struct snapshot_disks *disks; /* snapshot_disks.c */
    struct task *task;            /* what blocks, while it runs */
    ev_async woken;               /* by the save's thread */
    ev_timer deadline;            /* of QEMU's part */
    struct err err;
};

/* ---- snapshot_end.c ---- */

void snapshot_job_free(struct snapshot_job *job);
void snapshot_progress(struct snapshot_job *job, const char *phase, uint64_t done, uint64_t total);
/* The guest stood still for us, if it did: it goes on. */
void snapshot_release(struct snapshot_job *job);
/* err is set. The guest goes on at once; what is still being written to a slow disk is waited for without holding up anybody. */
void snapshot_fail(struct snapshot_job *job);
/* What blocks has ended: everything is undone, but for disks that are frozen already, whose new layers hold what the guest has written since. */
void snapshot_finish_failure(struct snapshot_job *job);
/* The last of it, well (`record`) or not. */
void snapshot_end_consume(struct snapshot_job *job, json_t *record);
void snapshot_show_copy(struct snapshot_job *job);
/* The save is done. */
void snapshot_copied(struct snapshot_job *job);

/* ---- snapshot_folder.c ---- */

/* Makes the temporary folder and its files; what an earlier try left under its name is removed. */
int snapshot_folder_make(struct snapshot_job *job, struct err *err);
/* All that describes it is written, synced, and it gets its name. */
int snapshot_folder_publish(struct snapshot_job *job, struct err *err);
void snapshot_folder_remove(struct snapshot_job *job);

/* RUN/vms/NAME/snapshot.pending: for a shim that finds a snapshot half done. `resume`: the guest is to be let run then. */
int snapshot_pending_write(const struct snapshot_job *job, bool resume);
void snapshot_pending_remove(const struct vm *vm);
/* 1: there was one, and what it wrote is removed; *ret_resume: the guest is to be let run. 0: none. */
int snapshot_pending_undo(const struct vm *vm, bool *ret_resume);

/* ---- snapshot_setup.c ---- */

/* Refuses with the reason, and what can be done instead. */
int snapshot_check(const struct vm *vm, const struct snapshot_request *request, struct err *err);
int snapshot_describe(struct snapshot_job *job, const struct snapshot_request *request);
/* The index and the save; the folder is made. */
int snapshot_setup(struct snapshot_job *job, struct err *err);
/* snapshot.c: the save's notify, on its thread. */
void snapshot_save_event(void *job);

/* ---- snapshot_run_on.c ---- */

/* Has QEMU let the guest run. Goes on without the job, which may have ended: `done` gets why it couldn't be, NULL: it runs. */
void snapshot_run_on(struct vm *vm, void (*done)(struct vm *vm, const char *why));
