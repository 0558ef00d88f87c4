/* vmctl doctor --prove: the question put to the test. */
#pragma once

#include "cmd/vmctl/verb.h"

/* Starts a throw-away VM, restarts the manager, and compares the processes of all VMs before and after; then removes that VM, whatever happened.
 * OUTCOME_REFUSED, with nothing done, where the checks say that VMs would be hurt (and no --force), or where it isn't known how the manager is
 * restarted. */
enum outcome doctor_prove(const struct invocation *in);
