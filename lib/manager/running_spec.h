/* The spec that a running VM's plan was made of, kept beside the plan as RUN/vms/NAME/spec.json, so that a difference can be told in the
 * words of the spec. It is of no other use: what counts is the plan. Safe on any thread; blocks. */
#pragma once

#include <jansson.h>

/* `native`: with all defaults written out; `digest`: of the plan. -errno. */
int running_spec_write(int run_vms_fd, const char *name, const json_t *native, const char *digest);

/* The spec of the plan with that digest, or NULL: unknown, since it is missing, can't be read, or belongs to another plan. A new reference. */
json_t *running_spec_read(int run_vms_fd, const char *name, const char *digest);
