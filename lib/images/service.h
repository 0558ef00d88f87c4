/* holdfast-imaged: io.holdfast.Images on RUN/images.sock, over the store. The loop only talks; what reads, fetches or writes does so on a
 * worker (for moments) or on a thread of its own (activity.h). */
#pragma once

#include "lib/base/dirs.h"
#include "lib/base/err.h"
#include "lib/base/util.h"

struct images_service;

struct images_service_options {
    const struct dirs *dirs; /* copied */
    const char *group;       /* whose members may manage; NULL: the config's, else "holdfast" where there is one */
};

/* Takes the locks of run folder and store: -EWOULDBLOCK when another has them. */
int images_service_new(const struct images_service_options *options, struct images_service **ret_service, struct err *err);
/* Until SIGTERM, SIGINT or SIGHUP: pulls under way are gone on with by the next one. */
int images_service_run(struct images_service *s);
void images_service_free(struct images_service *s);
DEFINE_CLEANUP(struct images_service *, images_service, images_service_free)
#define auto_images_service auto_cleanup(images_service_cleanup)
