/* Releases as io.holdfast.Images shows them. On any thread. */
#pragma once

#include "lib/base/json.h"
#include "lib/images/store.h"

/* A Release; reads what else is to be known of it from the disk (users, lock, room). NULL: out of memory. `newest`: the version that
 * "auto" stands for, NULL: found out. */
json_t *release_to_wire(const struct image_store *store, int state_vms_fd, const struct image_release *release, const char *newest);
/* Of the release of that name that image_release_find() finds. */
int release_find_to_wire(const struct image_store *store, const char *state_dir, const char *name, const char *version, json_t **ret_json,
                         struct err *err);
/* STATE/vms, or -1 when there is none. -errno otherwise: then nobody can say what is in use. */
int state_vms_open(const char *state_dir, int *ret_fd);
/* A string, or NULL (for the "o*" of json_pack()) when `text` is NULL. */
json_t *text_or_none(const char *text);
/* The same of a time, 0: none. */
json_t *time_or_none(uint64_t real_us);
