/* Spec file → launch plan, off the loop: read, parse, check against the host, ask QEMU what it can do if that isn't known yet, resolve. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/manager/vm.h"
#include "lib/manager/worker.h"

enum plan_use {
    PLAN_LAUNCH = 1 << 0, /* also make the VM's folders and a memfd of the plan */
    PLAN_SHOW = 1 << 1,   /* also keep the JSON of spec, running plan and next plan */
};

struct plan_request {
    struct job job;
    struct vm *vm; /* referenced */
    unsigned use;
    char *spec_file;
    char *qemu_path; /* to be asked */
    bool asked;
    void (*done)(struct plan_request *p); /* frees with plan_request_free() */
    void *arg;

    int r; /* 0, or -errno and err; problems when the spec is at fault */
    struct err err;
    json_t *problems; /* array of Problem, or NULL */
    char digest[17];
    int plan_fd;
    json_t *spec, *running, *next; /* NULL where there is none */
};

/* -ENOMEM, else `done` is called on the loop. */
int plan_request(struct vm *vm, unsigned use, void (*done)(struct plan_request *p), void *arg);
void plan_request_free(struct plan_request *p);

/* Goes through all VMs whose spec may have changed, one at a time, in the background: is it right, is it what runs? */
void planner_check(struct manager *m);
