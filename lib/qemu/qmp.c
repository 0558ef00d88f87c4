#include "lib/qemu/qmp.h"

#include <ctype.h>
#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/util.h"

/* QEMU echoes the id of the command; ours are positive integers. */
static uint64_t message_id(const json_t *json)
{
    const json_t *id = json_object_get(json, "id");
    json_int_t n = json_is_integer(id) ? json_integer_value(id) : 0;

    return n > 0 ? (uint64_t)n : 0;
}

static int classify(struct qmp_message *m, struct err *err)
{
    const json_t *value;

    if ((value = json_object_get(m->json, "return"))) {
        m->kind = QMP_RETURN;
        m->id = message_id(m->json);
        m->data = value;
        return 0;
    }
    if ((value = json_object_get(m->json, "error"))) {
        m->kind = QMP_ERROR;
        m->id = message_id(m->json);
        m->name = json_string_value(json_object_get(value, "class"));
        m->text = json_string_value(json_object_get(value, "desc"));
        if (!m->name || !m->text)
            return err_set(err, EINVAL, "bad-qmp", "QMP error without class or desc");
        return 0;
    }
    if ((value = json_object_get(m->json, "event"))) {
        m->kind = QMP_EVENT;
        m->name = json_string_value(value);
        m->data = json_object_get(m->json, "data");
        if (!m->name)
            return err_set(err, EINVAL, "bad-qmp", "QMP event whose name is no string");
        return 0;
    }
    if ((value = json_object_get(m->json, "QMP"))) {
        m->kind = QMP_GREETING;
        m->data = value;
        return 0;
    }
    return err_set(err, EINVAL, "bad-qmp", "QMP message that is no greeting, return, error or event");
}

int qmp_parse(const char *line, size_t len, struct qmp_message *ret_message, struct err *err)
{
    auto_qmp_message struct qmp_message m = { 0 };

    if (len > QMP_LINE_MAX)
        return err_set(err, EMSGSIZE, "bad-qmp", "QMP message of %zu bytes, at most %d are taken", len, QMP_LINE_MAX);
    int r = json_parse(line, len, &m.json, err);
    if (r < 0) {
        err_prefix(err, "QMP message");
        return r;
    }
    if (!json_is_object(m.json))
        return err_set(err, EINVAL, "bad-qmp", "QMP message that is no object");
    r = classify(&m, err);
    if (r < 0)
        return r;
    *ret_message = m;
    m = (struct qmp_message){ 0 };
    return 0;
}

void qmp_message_done(struct qmp_message *m)
{
    json_decref(m->json);
    *m = (struct qmp_message){ 0 };
}

/* Names of QAPI commands: letters, digits, '-', '_', and '.' in a vendor's prefix. */
static bool command_is_valid(const char *s)
{
    if (!s || !*s)
        return false;
    for (; *s; s++)
        if (!isalnum((unsigned char)*s) && *s != '-' && *s != '_' && *s != '.')
            return false;
    return true;
}

int qmp_command(const char *command, const json_t *arguments, uint64_t id, char **ret_line, size_t *ret_len)
{
    if (!command_is_valid(command) || (arguments && !json_is_object(arguments)) || id == 0 || id > INT64_MAX)
        return -EINVAL;
    auto_json json_t *json = json_pack("{s:s, s:I}", "execute", command, "id", (json_int_t)id);
    if (!json)
        return -ENOMEM;
    if (arguments && json_object_set_new(json, "arguments", json_deep_copy(arguments)) < 0)
        return -ENOMEM;
    return json_format(json, ret_line, ret_len);
}
