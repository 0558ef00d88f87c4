/* STATE/images/NAME/.newest.json: what the source of an image said was its newest release, when, and what went wrong at the last check.
 * It is why asking for "auto" never waits for a network. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "lib/base/record.h"
#include "lib/base/util.h"

enum { NEWEST_SCHEMA = 1, NEWEST_HISTORY_MAX = 64 };

struct image_newest {
    uint64_t schema;
    char **history;      /* releases that were once the newest, the last one first; NULL: none is known */
    uint64_t checked_us; /* real time of the last check that got an answer, 0: there was none */
    uint64_t tried_us;   /* of the last check */
    char *problem;       /* of the last check, NULL: it went well */
};
extern const struct record_type image_newest_type;

int image_newest_from_json(const json_t *json, struct image_newest *ret_newest, struct err *err);
void image_newest_clear(struct image_newest *newest);
#define auto_image_newest auto_cleanup(image_newest_clear)

/* Zeroed when there is none or it can't be read: it is only memory. -ENOMEM. */
int image_newest_read(int store_fd, const char *name, struct image_newest *ret_newest);
/* Makes the image's folder when it is missing. */
int image_newest_write(int store_fd, const char *name, const struct image_newest *newest);

/* The newest known, or NULL. */
const char *image_newest_version(const struct image_newest *newest);
/* Puts a version in front of the history. */
int image_newest_add(struct image_newest *newest, const char *version);

/* Which of two releases is the newer one, as strcmp does (positive: `a` is newer). Those that were once the newest are newer than those that
 * never were, in the order they became it; the others go by strverscmp(3). */
int image_newest_compare(const struct image_newest *newest, const char *a, const char *b);
