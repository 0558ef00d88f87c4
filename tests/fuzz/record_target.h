/* What the targets of the records in a VM's folder share: any bytes as one record. What is accepted can be written out and is then the
 * same; what is refused has its words, and leaves nothing behind. */
#pragma once

#include <stdlib.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "tests/fuzz/fuzz.h"

static inline void require(bool holds)
{
    if (!holds)
        abort();
}

/* Defines use_NAME(data, size, ret): 0 and *ret, which the caller clears, or a negative number. */
#define DEFINE_RECORD_TARGET(name, record_struct)                                                      \
    static int use_##name(const uint8_t *data, size_t size, record_struct *ret)                        \
    {                                                                                                  \
        auto_json json_t *json = NULL, *written = NULL, *rewritten = NULL;                             \
        record_struct again;                                                                           \
        struct err err = ERR_INIT;                                                                     \
                                                                                                       \
        if (json_parse((const char *)data, size, &json, NULL) < 0)                                     \
            return -1;                                                                                 \
        if (name##_from_json(json, ret, &err) < 0) {                                                   \
            require(err_is_set(&err) && err.text[0]);                                                  \
            return -1;                                                                                 \
        }                                                                                              \
        require(record_emit(&name##_type, ret, &written) == 0);                                        \
        require(name##_from_json(written, &again, NULL) == 0);                                         \
        require(record_emit(&name##_type, &again, &rewritten) == 0 && json_equal(written, rewritten)); \
        name##_clear(&again);                                                                          \
        return 0;                                                                                      \
    }
