/* A line from QEMU, or from whoever took its place: classified or refused, and what a command is made of comes back whole. */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/qmp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_qmp_message struct qmp_message m = { 0 };
    auto_free char *line = NULL;
    auto_json json_t *back = NULL;
    struct err err = ERR_INIT;
    size_t len = 0;

    if (qmp_parse((const char *)data, size, &m, &err) < 0) {
        require(err_is_set(&err) && !m.json);
        return 0;
    }
    require((m.kind == QMP_EVENT || m.kind == QMP_ERROR) == (m.name != NULL));
    require((m.kind == QMP_ERROR) == (m.text != NULL));
    if (!json_is_object(m.data))
        return 0;
    require(qmp_command("any-command", m.data, m.id ? m.id : 1, &line, &len) == 0);
    require(!memchr(line, '\n', len));
    require(json_parse(line, len, &back, NULL) == 0);
    require(json_equal(json_object_get(back, "arguments"), m.data));
    return 0;
}
