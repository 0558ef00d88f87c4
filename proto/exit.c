#include "proto/exit.h"

#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "proto/schema.h"

#define AT(member) .offset = offsetof(struct exit_record, member)

static const struct field exit_fields[] = {
    { "schema", FIELD_UINT, FIELD_REQUIRED, AT(schema), .min = 1 },
    { "name", FIELD_STRING, FIELD_REQUIRED, AT(name) },
    { "incarnation", FIELD_UINT, FIELD_REQUIRED, AT(incarnation) },
    { "boot_id", FIELD_STRING, FIELD_OMIT_EMPTY, AT(boot_id) },
    { "kind", FIELD_ENUM, FIELD_REQUIRED, AT(kind), .names = &exit_kind_names },
    { "code", FIELD_INT, 0, AT(code) },
    { "signal", FIELD_INT, FIELD_OMIT_EMPTY, AT(signal) },
    { "at", FIELD_CUSTOM, FIELD_OMIT_EMPTY, AT(at), .codec = &codec_time },
    { "final", FIELD_BOOL, 0, AT(final) },
    { "detail", FIELD_STRING, FIELD_OMIT_EMPTY, AT(detail) },
    { "event_seq", FIELD_UINT, 0, AT(event_seq) },
};
const struct record_type exit_type = {
    .what = "exit record", .size = sizeof(struct exit_record), .fields = exit_fields, .n_fields = ARRAY_LEN(exit_fields)
};

static const struct exit_record exit_preset = { .code = -1 };

int exit_from_json(const json_t *json, struct exit_record *ret_exit, struct err *err)
{
    struct exit_record exit;
    int r = schema_read(&exit_type, EXIT_SCHEMA, json, &exit_preset, NULL, &exit, err);
    if (r >= 0)
        *ret_exit = exit;
    return r;
}

void exit_clear(struct exit_record *exit) { record_clear(&exit_type, exit); }

json_t *exit_to_wire(const struct exit_record *exit)
{
    auto_json json_t *json = NULL;
    if (record_emit(&exit_type, exit, &json) < 0)
        return NULL;
    /* The wire's object is the record without what is about the file, and with absence for "not known". */
    static const char *const file_only[] = { "schema", "name", "boot_id", "event_seq" };
    for (size_t i = 0; i < ARRAY_LEN(file_only); i++)
        json_object_del(json, file_only[i]);
    if (exit->code < 0)
        json_object_del(json, "code");
    if (!json_object_get(json, "at") && json_object_set_new(json, "at", json_string("1970-01-01T00:00:00.000Z")) < 0)
        return NULL; /* required on the wire; the epoch is what 0 means */
    return steal_ptr(&json);
}

/* A newer shim may know kinds of exit that we don't: those are unknown to us, and the rest still counts. */
static int wire_kind_parse(const json_t *value, void *slot, struct err *err)
{
    int kind = enum_from_string(&exit_kind_names, json_string_value(value));
    *(int *)slot = kind < 0 ? EXIT_UNKNOWN : kind;
    return 0;
}

static const struct field_codec wire_kind = { .parse = wire_kind_parse };

static const struct field wire_fields[] = {
    { "incarnation", FIELD_UINT, 0, AT(incarnation) },
    { "kind", FIELD_CUSTOM, 0, AT(kind), .codec = &wire_kind },
    { "code", FIELD_INT, 0, AT(code) },
    { "signal", FIELD_INT, 0, AT(signal) },
    { "at", FIELD_CUSTOM, 0, AT(at), .codec = &codec_time },
    { "final", FIELD_BOOL, 0, AT(final) },
    { "detail", FIELD_STRING, 0, AT(detail) },
};
static const struct record_type wire_type = {
    .what = "exit", .size = sizeof(struct exit_record), .fields = wire_fields, .n_fields = ARRAY_LEN(wire_fields)
};

static void ignore_mistake(void *arg, const struct err *err) {}

int exit_from_wire(const json_t *json, struct exit_record *ret_exit)
{
    if (!json_is_object(json))
        return -EINVAL;
    struct exit_record exit = exit_preset;
    exit.schema = EXIT_SCHEMA;
    int r = record_parse_all(&wire_type, json, 0, &exit, ignore_mistake, NULL);
    if (r < 0) {
        exit_clear(&exit);
        return r;
    }
    *ret_exit = exit;
    return 0;
}

static char *describe_signal(const struct exit_record *exit)
{
    char *text = NULL;
    const char *name = exit->signal > 0 && exit->signal < 65 ? sigabbrev_np((int)exit->signal) : NULL;
    int r;
    if (exit->signal <= 0)
        r = str_format(&text, "killed by a signal");
    else if (name)
        r = str_format(&text, "killed by signal %" PRId64 " (SIG%s)", exit->signal, name);
    else
        r = str_format(&text, "killed by signal %" PRId64, exit->signal);
    return r < 0 ? NULL : text;
}

static char *describe_code(const struct exit_record *exit)
{
    char *text = NULL;
    if (exit->code < 0)
        return strdup("exited, code not known");
    return str_format(&text, "exited with code %" PRId64, exit->code) < 0 ? NULL : text;
}

char *exit_describe(const struct exit_record *exit)
{
    switch ((enum exit_kind)exit->kind) {
    case EXIT_GUEST_SHUTDOWN:
        return strdup("guest shut down");
    case EXIT_GUEST_RESET:
        return strdup("guest reset itself");
    case EXIT_GUEST_PANIC:
        return strdup("guest panicked");
    case EXIT_STOPPED:
        return strdup("stopped on request");
    case EXIT_CODE:
        return describe_code(exit);
    case EXIT_SIGNAL:
        return describe_signal(exit);
    case EXIT_OOM:
        return strdup("killed by the kernel, out of memory");
    case EXIT_UNKNOWN:
        break;
    }
    return strdup("ended, reason unknown");
}
