#include "lib/spec/load.h"

#include "lib/spec/spvm_internal.h"

const char *spec_reader_sysfs(const struct spec_reader *reader) { return reader->sysfs_root ? reader->sysfs_root : reader->root; }

bool spec_is_spvm(const json_t *json)
{
    return json_is_object(json) && (json_object_get(json, "run_configuration") || json_object_get(json, "qemu_configuration"));
}

int spec_warnings(const json_t *json, const struct spec_reader *reader)
{
    return spec_is_spvm(json) && reader->warning ? spvm_warn(json, reader) : 0;
}

int spec_load(const json_t *json, const struct spec_reader *reader, struct spec *ret_spec)
{
    if (spec_is_spvm(json))
        return spvm_parse(json, reader, ret_spec);
    return spec_parse(json, reader->problem, reader->arg, ret_spec);
}

int spec_load_host(const json_t *json, const struct spec *spec, const struct spec_reader *reader)
{
    if (spec_is_spvm(json))
        return spvm_check_host(json, spec, reader);
    int n = spec_check_host(spec, reader->problem, reader->arg);
    int more = n < 0 ? n : spec_check_host_devices(spec, spec_reader_sysfs(reader), reader->problem, reader->arg);
    return more < 0 ? more : n + more;
}

void spec_found(void *finding, const struct err *err)
{
    const struct spec_finding *found = finding;
    struct err as_given = *err;

    if (spec_is_spvm(found->json))
        spvm_place(found->json, &as_given);
    if (found->reader->problem)
        found->reader->problem(found->reader->arg, &as_given);
}
