/* STATE/vms/NAME/last-exit.json: why the VM's last incarnation ended. Written durably by the shim (or by the manager when both shim
 * and QEMU died, with kind unknown), before anybody is told. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "proto/states.h"

enum { EXIT_SCHEMA = 1 };

struct exit_record {
    uint64_t schema;
    char *name;
    uint64_t incarnation;
    char *boot_id;
    int kind;           /* enum exit_kind */
    int64_t code;       /* exit status, -1: not known or not applicable */
    int64_t signal;     /* 0: none */
    uint64_t at;        /* real time, microseconds */
    bool final;         /* no restart follows by the VM's own policy */
    char *detail;       /* QEMU's words: SHUTDOWN reason, last stderr lines; may be NULL */
    uint64_t event_seq; /* of the newest event, so that numbers go on from here at the next start */
};
extern const struct record_type exit_type;

int exit_from_json(const json_t *json, struct exit_record *ret_exit, struct err *err);
void exit_clear(struct exit_record *exit);
#define auto_exit auto_cleanup(exit_clear)

/* The Exit object of the wire (io.holdfast.Shim and .Manager): no schema, no -1 and 0 for "none". NULL: out of memory. */
json_t *exit_to_wire(const struct exit_record *exit);
/* The inverse, lenient. */
int exit_from_wire(const json_t *json, struct exit_record *ret_exit);
/* "exited with code 1", "killed by signal 9 (SIGKILL)", "guest shut down": for tables and messages. malloc'ed, NULL: out of memory. */
char *exit_describe(const struct exit_record *exit);
