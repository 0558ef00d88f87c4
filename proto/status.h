/* RUN/vms/NAME/status.json: what the shim last knew, readable with no shim. Written by the holder of shim.lock alone. */
#pragma once

#include <stdint.h>

#include "lib/base/pidref.h"
#include "lib/base/record.h"
#include "proto/exit.h"
#include "proto/states.h"

enum { STATUS_SCHEMA = 1 };

struct process_id {
    uint64_t pid; /* 0: none */
    uint64_t start_time;
};
extern const struct record_type process_id_type;

struct status {
    uint64_t schema;
    char *name;
    uint64_t incarnation;
    int state;         /* enum vm_state */
    uint64_t since;    /* real time, microseconds since the epoch: when the state was entered */
    char *detail;      /* one line on the state, NULL: nothing to say */
    int health;        /* enum vm_health */
    uint64_t restarts; /* by the shim's restart policy, since the shim's start */
    uint64_t attempt;  /* of the restart budget, how much is used */
    uint64_t started;  /* real time at which QEMU of this incarnation was started, 0: not yet */
    char *boot_id;
    struct process_id shim, qemu;
    char *plan_digest;
    char *version;
    char *cgroup;       /* folder of the cgroup QEMU is in, NULL: none of its own */
    uint64_t event_seq; /* of the newest event */
};
extern const struct record_type status_type;

int status_from_json(const json_t *json, struct status *ret_status, struct err *err);
void status_clear(struct status *status);
#define auto_status auto_cleanup(status_clear)
