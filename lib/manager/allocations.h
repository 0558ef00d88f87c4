/* What VMs have of the host that two can't have at once, kept in STATE/allocations.json.
 *
 * A VM is *given* what its spec leaves to us (a vsock context id, MAC addresses, ports): once, on disk before anybody hears of it, and its own
 * until it is deleted or its spec asks for it no more, however others come and go. It *holds* what it was last started with, given or
 * fixed, as long as it runs or is to run: who comes later gets none of that.
 *
 * Safe on any thread. Nothing but allocations_commit() waits for a disk, so the rest may be called on the loop. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/err.h"
#include "lib/manager/admission.h"
#include "lib/spec/claims.h"

struct allocations;

enum { CID_FIRST = 3 }; /* 0 to 2 are the hypervisor's, the loopback's and the host's: vsock(7) */

/* Reads allocations.json; one that doesn't parse is set aside and *ret_aside (malloc'ed) names it. */
int allocations_new(int state_fd, struct allocations **ret_allocations, char **ret_aside, struct err *err);
void allocations_free(struct allocations *a);

/* What allocations.json doesn't have yet of what was given and taken, durably. Calls that wait share one write. */
int allocations_commit(struct allocations *a);

/* Fills in the spec what it leaves to us. `hidden`: for a VM nobody sees, which holds nothing. */
int allocations_give(struct allocations *a, struct spec *spec, const struct port_range *ports, struct err *err);
/* The same, of what would do: nothing is given. */
int allocations_try(struct allocations *a, struct spec *spec, const struct port_range *ports, struct err *err);

/* What others have of `claims`: `report` gets "POINTER: 127.0.0.1:8080/tcp is taken by VM web" (id "taken") for each. How many. */
int allocations_check(struct allocations *a, const char *name, const struct claims *claims, bool spvm,
                      void (*report)(void *arg, const struct err *err), void *arg);

/* Where there is room for it and nobody else has any of it, `name` holds `claims` (taken) from now on. Its tenants, and what it has itself,
 * are filled in `admission`. -EBUSY (id "taken"), -EDQUOT (id "no-room"). *ret_freed: it held something before. */
int allocations_take(struct allocations *a, const char *name, struct claims *claims, struct admission *admission, bool *ret_freed,
                     struct err *err);
/* Just the question whether there is room. */
int allocations_admit(struct allocations *a, const char *name, const struct claims *claims, struct admission *admission, struct err *err);

/* It was found running with this (taken), and held nothing yet. */
void allocations_adopt_take(struct allocations *a, const char *name, struct claims *claims);
/* It was changed to this (taken) while it runs. */
void allocations_change_take(struct allocations *a, const char *name, struct claims *claims);
bool allocations_holds(struct allocations *a, const char *name);
bool allocations_holds_port(struct allocations *a, const char *name, const struct port_claim *port);

/* Whether the VM runs or is to run; until it is known of a VM, it does. True: it doesn't any more, and something it held is free. */
bool allocations_set_active(struct allocations *a, const char *name, bool active);
/* All VMs that there are have been told of: others hold nothing. */
void allocations_settle(struct allocations *a);

/* All that it has is free for others. */
void allocations_drop(struct allocations *a, const char *name);

/* For people: {cid, macs, forwards: [{host, proto, guest}]} of what it holds, else of what it is given. NULL: nothing, or out of memory. */
json_t *allocations_show(struct allocations *a, const char *name);
