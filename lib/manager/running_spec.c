#include "lib/manager/running_spec.h"

#include <errno.h>

#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/manager/state.h"

enum { SPEC_SCHEMA = 1 };

int running_spec_write(int run_vms_fd, const char *name, const json_t *native, const char *digest)
{
    auto_json json_t *json =
        json_pack("{s:i, s:s, s:O}", "schema", SPEC_SCHEMA, "plan_digest", digest, "spec", (json_t *)(uintptr_t)native);
    auto_free char *text = NULL;
    char path[VM_PATH_MAX];
    size_t len;
    int r = json ? json_format(json, &text, &len) : -ENOMEM;

    return r < 0 ? r : file_write(run_vms_fd, name_path(name, FILE_SPEC, path), text, len, FILE_MODE, FILE_ATOMIC);
}

json_t *running_spec_read(int run_vms_fd, const char *name, const char *digest)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    const char *belongs;
    char path[VM_PATH_MAX];
    size_t len;

    if (file_read(run_vms_fd, name_path(name, FILE_SPEC, path), RECORD_MAX, &text, &len) < 0 || json_parse(text, len, &json, NULL) < 0)
        return NULL;
    belongs = json_string_value(json_object_get(json, "plan_digest"));
    if (json_integer_value(json_object_get(json, "schema")) != SPEC_SCHEMA || !belongs || !streq(belongs, digest))
        return NULL;
    return json_incref(json_object_get(json, "spec"));
}
