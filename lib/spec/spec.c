#include "lib/spec/spec.h"

#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"
#include "proto/plan.h"

/* Keys of the format that this version reads but can't honour. To ignore them would start a VM without what its operator asked for. */
static const char *const unsupported_keys[] = { "config_disk" };

/* Reports and removes the unsupported keys, which the tables don't know. */
static void take_unsupported(json_t *json, struct problems *p)
{
    for (size_t i = 0; i < ARRAY_LEN(unsupported_keys); i++) {
        const char *key = unsupported_keys[i];
        const json_t *value = json_object_get(json, key);
        if (!value)
            continue;
        if (!json_is_null(value))
            problem_add(p, "/%s: not supported by this version; remove it", key);
        json_object_del(json, key);
    }
}

int spec_parse(const json_t *json, void (*report)(void *arg, const struct err *err), void *arg, struct spec *ret_spec)
{
    auto_problems struct problems problems = { .report = report, .arg = arg };
    auto_spec struct spec spec = { 0 };
    auto_json json_t *copy = json_deep_copy(json);

    if (!copy)
        return -ENOMEM;
    spec_type.init(&spec);
    if (json_is_object(copy))
        take_unsupported(copy, &problems);
    int r = record_parse_all(&spec_type, copy, RECORD_STRICT, &spec, problem_from_record, &problems);
    if (r < 0)
        return r;
    if (json_is_object(copy)) {
        spec.vsock.wanted = json_is_object(json_object_get(copy, "vsock"));
        for (size_t i = 0; i < spec.n_health; i++)
            spec.agent |= spec.health[i].kind == PROBE_AGENT;
        r = spec_check(&spec, &problems);
        if (r < 0)
            return r;
    }
    if (problems.paths.failed)
        return -ENOMEM;
    if (problems.n == 0) {
        *ret_spec = spec;
        spec = (struct spec){ 0 };
    }
    return problems.n;
}

int spec_emit(const struct spec *spec, json_t **ret_json)
{
    auto_json json_t *json = NULL;

    int r = record_emit(&spec_type, spec, &json);
    if (r < 0)
        return r;
    if (!spec->vsock.wanted)
        json_object_del(json, "vsock");
    *ret_json = steal_ptr(&json);
    return 0;
}

void spec_clear(struct spec *spec) { record_clear(&spec_type, spec); }
