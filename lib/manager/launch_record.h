/* RUN/vms/NAME/spec.json: the spec that a VM was launched with. What an edit means is told by comparing the file with this, both resolved by
 * the same manager, so that neither a newer manager nor a newer QEMU looks like an edit. */
#pragma once

#include <stdbool.h>

#include "lib/base/err.h"
#include "lib/base/json.h"

struct launch_record {
    char *folder, *file; /* where it was read */
    json_t *spec;
    char known[17]; /* json_digest() of a newer spec that is to wait for a restart by hand; "": none */
    bool gone;      /* its file was seen to be deleted */
    /* What the plan it runs by was made of, so that a difference can be told in the words of the spec. It is of no other use. */
    json_t *native;       /* with all defaults written out; NULL: not known */
    char plan_digest[17]; /* of that plan */
};

/* `run_vms_fd`: RUN/vms. -ENOENT: there is none; -EINVAL: it doesn't parse, and was set aside. Blocks; safe on any thread. */
int launch_record_read(int run_vms_fd, const char *name, struct launch_record *ret_record);
/* The VM's run folder must be there. -errno. Blocks; safe on any thread. */
int launch_record_write(int run_vms_fd, const char *name, const struct launch_record *record);
/* It runs by another plan now. -ENOENT: there is no record, so nothing is noted. Read, changed and written: for the writer's thread. */
int launch_record_note_plan(int run_vms_fd, const char *name, json_t *native, const char *plan_digest);

/* `native` of the plan with that digest. NULL: not known, or of another plan. A new reference. */
json_t *launch_record_native(int run_vms_fd, const char *name, const char *plan_digest);

void launch_record_clear(struct launch_record *record);
#define auto_launch_record __attribute__((cleanup(launch_record_clear)))
