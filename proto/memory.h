/* RUN/vms/NAME/memory.json: where the RAM of the QEMU that runs comes from, for the shim that takes a dead one's place. Written by the
 * holder of shim.lock before QEMU may use its RAM. Absent: the RAM was empty at the start. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "proto/states.h"

enum { MEMORY_SCHEMA = 1 };

struct memory_state {
    uint64_t schema;
    uint64_t incarnation;
    int mode;      /* enum restore_mode */
    char *folder;  /* of the snapshot, absolute */
    bool prefetch; /* load the rest in the background */
    bool record;   /* note which pages are needed first */
    bool complete; /* all pages are in, the snapshot isn't needed any more */
};
extern const struct record_type memory_state_type;

int memory_state_from_json(const json_t *json, struct memory_state *ret_state, struct err *err);
void memory_state_clear(struct memory_state *state);
#define auto_memory_state auto_cleanup(memory_state_clear)
