/* Straight to the shims, with no manager: what each says of its VM, or what its locks say when it says nothing. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/varlink/client.h"

enum { SHIM_TIMEOUT_MS = 1000 }; /* a shim that is well answers in a few ms; asked all at once */

/* Every folder below RUN/vms, asked at once. *ret_survey: an array of {name, state, reason, status}: state as in vm_view,
 * reason null when the shim answered, status null when it didn't. Complains when the folder can't be read. */
enum outcome shim_survey_all(const struct invocation *in, json_t **ret_survey);
/* The same for some VMs; those without a folder are complained about, and OUTCOME_NO_SUCH. */
enum outcome shim_survey(const struct invocation *in, char *const *names, size_t n, json_t **ret_survey);

/* Whether the VM has a run folder; complains when not. */
enum outcome shim_folder_check(const struct invocation *in, const char *name);
/* A connection to one shim. Complains. */
enum outcome shim_connect(const struct invocation *in, const char *name, struct varlink_client **ret_client);
/* How a call to the shim failed, in words and as outcome. */
enum outcome shim_complain(const char *name, const struct varlink_client *client, int r, const json_t *parameters, const struct err *err);

/* Whether the locks say that a QEMU of this VM lives and no shim does. */
bool shim_is_orphan(const struct invocation *in, const char *name);
