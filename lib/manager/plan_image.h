/* The release of an image that a VM boots, found in the store when its plan is made. Blocks: for worker threads. */
#pragma once

#include "lib/base/err.h"
#include "lib/images/store.h"
#include "lib/manager/planner.h"
#include "lib/spec/spec.h"

/* Nothing when the spec has no image. Else finds its release (of a restore: the one the snapshot was made with), holds it in
 * p->release_fd until the request is freed, and gives the spec what it brings. -ENOENT with id "no-such-image": it must be got first, and
 * p->image_name, p->image_version say which. *ret_folder (malloc'ed) is the release's folder. */
int plan_image_apply(struct plan_request *p, struct spec *spec, char **ret_folder);

/* Of a plan by the VM's own spec, on the loop: the manager knows which image the VM follows. */
void plan_image_note(const struct plan_request *p);

/* Writes down which release the VM is started with, so that it is kept while the VM is stopped; none, when it has no image. */
int plan_image_use(struct plan_request *p, const struct spec *spec);
