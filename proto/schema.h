/* What all records of this folder share: the number of their schema, and how a whole record is read. For the .c files here. */
#pragma once

#include "lib/base/record.h"

/* Reads `json` into `record` (all of type->size is set), after proving that its "schema" is one this build knows: 1 to `newest`. A
 * newer one is -EPROTONOSUPPORT with id "newer-schema": the record is sound, and nothing may be concluded from fields misread. Unknown
 * keys are ignored. `preset` is where the defaults come from, or NULL. `check` has the last word, or is NULL. On failure nothing is
 * left in `record` to clear. */
int schema_read(const struct record_type *type, uint64_t newest, const json_t *json, const void *preset,
                int (*check)(const void *record, struct err *err), void *record, struct err *err);
