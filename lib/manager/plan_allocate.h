/* A part of making a plan: what the spec leaves to us is filled in, and whether the VM may have all it asks for. */
#pragma once

#include "lib/manager/planner.h"
#include "lib/spec/spec.h"

/* `spvm`: the spec is written in that form, so that places are told in its terms. What was given isn't on disk yet: allocations_commit().
 * With PLAN_LAUNCH the VM holds what it claims from now on. -errno with p->err and, where others are at fault, p->refusal and p->problems. */
int plan_allocate(struct plan_request *p, struct spec *spec, bool spvm);

/* Whether the ports that the plan claims are free on the host; else -errno and p->err, which names who has one. The VM's own QEMU, which is
 * about to let go of them or goes on with them, is in nobody's way, unless the plan is for a launch. Blocks. */
int plan_check_host_ports(struct plan_request *p, bool spvm);
