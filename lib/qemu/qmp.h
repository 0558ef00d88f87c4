/* QMP codec (QEMU docs/interop/qmp-spec.rst): builds commands, classifies what arrives. No I/O. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/base/err.h"

enum qmp_kind { QMP_GREETING, QMP_RETURN, QMP_ERROR, QMP_EVENT };

struct qmp_message {
    enum qmp_kind kind;
    json_t *json;       /* the whole message; owns what the other members point to */
    uint64_t id;        /* return, error: ours; 0 when QEMU couldn't tell */
    const char *name;   /* event's name, error's class */
    const char *text;   /* error's desc */
    const json_t *data; /* return value, event's data, greeting; may be NULL */
};

enum { QMP_LINE_MAX = 4 * 1024 * 1024 }; /* query-qmp-schema is one line of 207 KB in QEMU 7.2 */

int qmp_parse(const char *line, size_t len, struct qmp_message *ret_message, struct err *err);
void qmp_message_done(struct qmp_message *m);
#define auto_qmp_message auto_cleanup(qmp_message_done)

/* {"execute": command, "arguments": …, "id": id} as one line without newline. `arguments` borrowed, may be NULL. */
int qmp_command(const char *command, const json_t *arguments, uint64_t id, char **ret_line, size_t *ret_len);
