#include "proto/schema.h"

#include <errno.h>

#include "lib/base/util.h"

/* Before anything else is read, since a newer schema may give the same keys another meaning. */
static int check_number(const struct record_type *type, uint64_t newest, const json_t *json, struct err *err)
{
    if (!json_is_object(json))
        return err_set(err, EINVAL, "bad-record", "%s: expected an object", type->what);
    const json_t *number = json_object_get(json, "schema");
    if (!json_is_integer(number) || json_integer_value(number) < 1)
        return err_set(err, EINVAL, "bad-record", "/schema: expected the number of the %s's schema, from 1 to %" PRIu64, type->what,
                       newest);
    if ((uint64_t)json_integer_value(number) > newest)
        return err_set(err, EPROTONOSUPPORT, "newer-schema",
                       "/schema: this %s has schema %" JSON_INTEGER_FORMAT ", this build knows up to %" PRIu64, type->what,
                       json_integer_value(number), newest);
    return 0;
}

int schema_read(const struct record_type *type, uint64_t newest, const json_t *json, const void *preset,
                int (*check)(const void *record, struct err *err), void *record, struct err *err)
{
    int r = check_number(type, newest, json, err);
    if (r < 0)
        return r;
    if (preset)
        memcpy(record, preset, type->size);
    else
        memset(record, 0, type->size);
    r = record_parse(type, json, 0, record, err);
    if (r >= 0 && check)
        r = check(record, err);
    if (r < 0)
        record_clear(type, record);
    return r < 0 ? r : 0;
}
