/* STATE/vms/NAME/wanted.json: the operator's wish, written durably by the manager before the command is answered.
 *
 * `running` is fulfilled by an incarnation >= `from`: start writes last incarnation + 1, restart current + 1. So a restart that a crash of
 * the manager cut in two is finished by the next manager, and a guest that ended by its own policy isn't started again.
 *
 * `restore` says that incarnation `from` of it begins from a snapshot. It stays until that life has been seen to run: whoever reads it
 * with no such life there knows that the restore is still to come (no incarnation `from` yet) or failed, and never boots the VM anew
 * in its place. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "proto/states.h"

enum { WANTED_SCHEMA = 1 };

struct wanted_restore {
    char *vm, *snapshot; /* NULL: none */
    int mode;            /* enum restore_mode */
    uint64_t from;
};

struct wanted {
    uint64_t schema;
    int wish; /* enum vm_wanted */
    uint64_t from;
    uint64_t seen;       /* highest incarnation known to have been launched, and in which boot: after a crash of the host this is how */
    char *seen_boot;     /* the manager knows that incarnation `seen` died unexplained */
    bool force;          /* of the stop on the way: begin at SIGTERM */
    uint64_t timeout_ms; /* of the stop on the way, 0: the plan's */
    bool deleting;       /* forget the VM once it is stopped */
    bool purge;          /* with its disks */
    bool by_spec;        /* stopped because its spec says so or is gone, not by a command: undone when the spec says otherwise */
    struct wanted_restore restore;
};
extern const struct record_type wanted_type;

/* Replaces *to by a copy; NULL: by none. -ENOMEM leaves it as it was. */
int wanted_restore_set(struct wanted_restore *to, const struct wanted_restore *from);
void wanted_restore_clear(struct wanted_restore *restore);
#define auto_wanted_restore auto_cleanup(wanted_restore_clear)

/* The path of the snapshot must not lead out of its folder: names that aren't are -EINVAL. */
int wanted_from_json(const json_t *json, struct wanted *ret_wanted, struct err *err);
void wanted_clear(struct wanted *wanted);
#define auto_wanted auto_cleanup(wanted_clear)
