#include "lib/varlink/message.h"

#include <errno.h>
#include <string.h>

#include "lib/base/json.h"

static int bad(struct err *err, const char *what) { return err_set(err, EINVAL, "bad-message", "malformed message: %s", what); }

/* true and false; absent and null are false. */
static int get_flag(const json_t *root, const char *key, bool *ret)
{
    const json_t *v = json_object_get(root, key);

    if (v && !json_is_null(v) && !json_is_boolean(v))
        return -EINVAL;
    *ret = json_is_true(v);
    return 0;
}

static int parse(const char *text, size_t len, struct varlink_message *m, struct err *err)
{
    json_t *p;
    int r = json_parse(text, len, &m->root, err);

    if (r < 0)
        return r;
    if (!json_is_object(m->root))
        return bad(err, "not an object");
    p = json_object_get(m->root, "parameters");
    if (!p || json_is_null(p)) {
        p = json_object();
        if (json_object_set_new(m->root, "parameters", p) < 0)
            return err_set(err, ENOMEM, "no-memory", "out of memory");
    } else if (!json_is_object(p)) {
        return bad(err, "parameters are not an object");
    }
    m->parameters = p;
    return 0;
}

int varlink_message_parse_call(const char *text, size_t len, struct varlink_message *ret_message, struct err *err)
{
    struct varlink_message auto_varlink_message m = { 0 };
    int r = parse(text, len, &m, err);

    if (r < 0)
        return r;
    m.method = json_string_value(json_object_get(m.root, "method"));
    if (!m.method)
        return bad(err, "no method");
    if (get_flag(m.root, "more", &m.more) < 0 || get_flag(m.root, "oneway", &m.oneway) < 0 || get_flag(m.root, "upgrade", &m.upgrade) < 0)
        return bad(err, "more, oneway and upgrade are true or false");
    if (m.more + m.oneway + m.upgrade > 1)
        return bad(err, "more, oneway and upgrade exclude each other");
    *ret_message = m;
    m = (struct varlink_message){ 0 };
    return 0;
}

int varlink_message_parse_reply(const char *text, size_t len, struct varlink_message *ret_message, struct err *err)
{
    struct varlink_message auto_varlink_message m = { 0 };
    const json_t *error;
    int r = parse(text, len, &m, err);

    if (r < 0)
        return r;
    error = json_object_get(m.root, "error");
    m.error = json_string_value(error);
    if (error && !json_is_null(error) && (!m.error || !m.error[0]))
        return bad(err, "error is not a name");
    if (get_flag(m.root, "continues", &m.continues) < 0)
        return bad(err, "continues is true or false");
    if (m.continues && m.error)
        return bad(err, "an error ends a call");
    *ret_message = m;
    m = (struct varlink_message){ 0 };
    return 0;
}

void varlink_message_clear(struct varlink_message *m)
{
    json_decref(m->root);
    *m = (struct varlink_message){ 0 };
}

static int set_true(json_t *root, const char *key, bool value) { return value ? json_object_set_new(root, key, json_true()) : 0; }

int varlink_message_format_call(const char *interface, const char *method, json_t *parameters, bool more, bool oneway, bool upgrade,
                                char **ret_text, size_t *ret_len)
{
    json_t auto_json *root = json_object();
    char auto_free *full = NULL;
    json_t *name = NULL;
    int r = interface ? str_format(&full, "%s.%s", interface, method) : str_set(&full, method);

    if (r >= 0)
        r = json_make_string(full, &name);
    if (r < 0)
        return r;
    if (json_object_set_new(root, "method", name) < 0 || (parameters && json_object_set(root, "parameters", parameters) < 0) ||
        set_true(root, "more", more) < 0 || set_true(root, "oneway", oneway) < 0 || set_true(root, "upgrade", upgrade) < 0)
        return -ENOMEM;
    return json_format(root, ret_text, ret_len);
}

int varlink_message_format_reply(const char *error, json_t *parameters, bool continues, char **ret_text, size_t *ret_len)
{
    json_t auto_json *root = json_object();

    if (error) {
        json_t *name = NULL;
        int r = json_make_string(error, &name);

        if (r < 0)
            return r;
        if (json_object_set_new(root, "error", name) < 0)
            return -ENOMEM;
    }
    /* Always there in a reply, also when empty: some clients insist. */
    if ((parameters ? json_object_set(root, "parameters", parameters) : json_object_set_new(root, "parameters", json_object())) < 0 ||
        set_true(root, "continues", continues) < 0)
        return -ENOMEM;
    return json_format(root, ret_text, ret_len);
}

bool varlink_message_is_upgrade(const char *text, size_t len)
{
    struct varlink_message auto_varlink_message m = { 0 };

    return memmem(text, len, "\"upgrade\"", 9) && varlink_message_parse_call(text, len, &m, NULL) == 0 && m.upgrade;
}
