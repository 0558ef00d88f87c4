/* Newer releases for VMs that follow their image (image.version "auto" and image.update "auto"): at the host's update time the newest release
 * is got, and those that run with an older one are restarted, one at a time (rollout.h). */
#pragma once

#include <stdint.h>
#include <time.h>

struct manager;
struct image_updates;

int image_updates_new(struct manager *m); /* -ENOMEM */
void image_updates_free(struct image_updates *u);

/* Begins to wait for the update time; again when the host config has changed. */
void image_updates_schedule(struct manager *m);

/* The next moment after `now` at which the local clock shows `minute` of the day (0 to 1439). Pure but for the time zone, tzset(3). */
time_t image_update_next(time_t now, unsigned minute);
