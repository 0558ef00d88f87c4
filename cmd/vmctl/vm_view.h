/* How VMs are shown to people, whoever told of them: the manager or their shims. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"

/* Gives a VM (NULL: nothing happens) as JSON the members the manager leaves out when there is nothing to say: null, so that programs find
 * every one in every VM. */
void vm_view_complete(json_t *vm);

/* The table of `vmctl list`, or with -q the names. `vms` is an array of the manager's VM. */
enum outcome vm_view_list(const struct invocation *in, const json_t *vms);
/* One VM in a few lines. `paths` may be NULL. */
void vm_view_detail(const struct invocation *in, const json_t *vm, const json_t *paths);

const char *vm_view_state_color(const char *state);
const char *vm_view_health_color(const char *health);
/* "guest shut down": of an Exit as it is on the wire. malloc'ed, "" when there is none. */
char *vm_view_exit(const json_t *exit);
/* One "  label      value" line of a detail view; nothing when value is "". */
void vm_view_line(const char *label, const char *value);
