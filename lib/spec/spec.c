#include "lib/spec/spec.h"

#include <errno.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/spec/spec_internal.h"
#include "proto/plan.h"

int spec_parse(const json_t *json, void (*report)(void *arg, const struct err *err), void *arg, struct spec *ret_spec)
{
    auto_problems struct problems problems = { .report = report, .arg = arg };
    auto_spec struct spec spec = { 0 };
    auto_json json_t *copy = json_deep_copy(json);

    if (!copy)
        return -ENOMEM;
    spec_type.init(&spec);
    int r = record_parse_all(&spec_type, copy, RECORD_STRICT, &spec, problem_from_record, &problems);
    if (r < 0)
        return r;
    if (json_is_object(copy)) {
        spec.config_disk.wanted = json_is_object(json_object_get(copy, "config_disk"));
        spec.seed.wanted = json_is_object(json_object_get(copy, "seed"));
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
