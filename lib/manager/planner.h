/* Spec file → launch plan, off the loop: read, parse, check against the host, ask QEMU what it can do if that isn't known yet, resolve. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/disk/spec_recipes.h"
#include "lib/loop/worker.h"
#include "lib/manager/gpus.h"
#include "lib/manager/host_limits.h"
#include "lib/manager/vm.h"
#include "lib/spec/claims.h"
#include "proto/limits.h"

enum plan_use {
    PLAN_LAUNCH = 1 << 0, /* also make the VM's folders, a memfd of the plan, and a record of the spec (launch_record.h) */
    PLAN_SHOW = 1 << 1,   /* also keep the JSON of spec, running plan and next plan */
    PLAN_TRY = 1 << 2,    /* nothing is given out for it: whether it works is the question */
    PLAN_ADMIT = 1 << 3,  /* also look whether the host has room and ports for it, as for PLAN_LAUNCH */
    PLAN_DRY = 1 << 4,    /* nothing new is given out for it: what is different is the question */
};

/* Who has what a VM needs. */
enum refusal {
    REFUSAL_NONE,
    REFUSAL_BY_VMS,  /* others that run or are to run */
    REFUSAL_BY_HOST, /* somebody else */
};

/* Where a plan's VM is, when not in the usual folders: one whose name is nobody's, in one folder of its own. */
struct plan_place {
    char *run, *state, *log; /* absolute; made for PLAN_LAUNCH */
};

struct plan_host;

struct plan_request {
    struct job job;
    struct vm *vm; /* referenced */
    unsigned use;
    char *spec_file;
    char *qemu_user;               /* of the host config, as it was when this was asked for */
    bool prefetch;                 /* likewise: restore.prefetch */
    json_t *given;                 /* the spec to plan by instead of the file's, NULL: that; owned */
    struct wanted_restore restore; /* the snapshot to begin from; owned */
    struct plan_place place;       /* run NULL: the usual folders; owned */
    bool contends;                 /* it runs, is to run, or would at once: what others have it can't have */
    bool ephemeral;                /* the restore is for learning the working set */
    struct host_limits limits;     /* of the host config when it was made: it may be replaced meanwhile */
    struct port_range ports;
    char *authorized_keys;
    char *qemu_path;      /* to be asked */
    bool asked, features; /* whether it was, and whether what it offers to confidential guests and devices is to be asked too */
    void (*done)(struct plan_request *p); /* frees with plan_request_free() */
    void *arg;

    enum refusal refusal; /* why r is negative */
    struct claims claims; /* what it would hold; taken where it does */
    bool freed;           /* and held something else before */
    int r;                /* 0, or -errno and err; problems when the spec is at fault */
    struct err err;
    json_t *problems;            /* array of Problem, or NULL */
    struct spec_digests digests; /* of the files that disks are made of */
    char digest[17];
    struct limits scope_limits; /* of the plan */
    int plan_fd;
    struct gpu_wish gpus; /* of a PLAN_LAUNCH: what must be bound before QEMU starts */
    char *image_name,
        *image_version; /* of a spec with an image: what it is started with, or what must be got first (version NULL: the newest) */
    int image_update;   /* enum image_update of the spec */
    bool image_newest, image_newer; /* its version isn't fixed; and is another than the one it was started with last */
    int release_fd;                 /* held until the request is freed; -1: none */
    json_t *spec, *running, *next;  /* NULL where there is none */
    json_t *native;                 /* PLAN_SHOW: the spec as a native one, with all defaults; NULL when it is wrong */
};

/* For those who fill in more of it, then plan_request_begin(). NULL: out of memory. */
struct plan_request *plan_request_new(struct vm *vm, unsigned use, void (*done)(struct plan_request *p), void *arg);
void plan_request_begin(struct plan_request *p);

/* -ENOMEM, else `done` is called on the loop. */
int plan_request(struct vm *vm, unsigned use, void (*done)(struct plan_request *p), void *arg);
void plan_request_free(struct plan_request *p);

/* It failed for want of the image alone, which is got when the VM is started: nothing is wrong with the spec. */
bool plan_awaits_image(const struct plan_request *p);

/* For those who make many plans in one job, on its thread: first this for each (p->r says how it went), then once allocations_commit(), then
 * the other for each, with what the commit returned; again with 0 where p->r is -EAGAIN, once QEMU at p->qemu_path was asked. */
void plan_begin(struct plan_request *p, struct spec *ret_spec);
void plan_end(struct plan_request *p, struct spec *spec, const struct plan_host *host, int committed);

/* Goes through all VMs whose spec may have changed, in the background: is it right, is it what runs? (spec_check.c) */
void planner_check(struct manager *m);
/* Asks the QEMU most plans will need what it can do, while there is something else to do still. */
void planner_warm(struct manager *m);
