/* The spec of a VM that is made from a snapshot of another: the same machine, with nothing that two VMs can't have at once. Pure. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"

/* `from`: a native spec, of the VM `of`. In the copy its name is `name`; host ports are not forwarded and fixed addresses (MAC, vsock
 * context id) are given anew. What the operator will miss is a line each in `notes`. -ENOMEM. */
int restore_spec_make(const json_t *from, const char *of, const char *name, json_t *notes, json_t **ret_spec);

/* For one that runs unseen, once: no forwards, no tap devices, no health probes, never restarted. */
int restore_spec_make_hidden(const json_t *from, const char *name, json_t **ret_spec);

/* The first tap device that both specs name, NULL: none. */
const char *restore_spec_same_tap(const json_t *spec, const json_t *other);
