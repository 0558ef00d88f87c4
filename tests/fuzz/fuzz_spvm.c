/* A spec from anywhere, in the sp-vm format wherever it can be taken for that: every mistake is said with its place, and what is accepted
 * is written out as a native spec that stays itself. Folders it names are below tests/golden/sp-vm/host. */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/spec/load.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void problem(void *arg, const struct err *err)
{
    int *n = arg;

    require(streq(err->id, "bad-spec") && err->text[0] && !strchr(err->text, '\n'));
    require(has_prefix(err->text, "/name: ") || has_prefix(err->text, "/enabled: ") || has_prefix(err->text, "/run_configuration") ||
            has_prefix(err->text, "/qemu_configuration"));
    (*n)++;
}

static void warning(void *arg, const struct err *err) { require(streq(err->id, "spec-warning") && err->text[0] == '/'); }

static void no_problem(void *arg, const struct err *err) { abort(); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int reported = 0;
    const struct spec_reader reader = { .problem = problem, .warning = warning, .arg = &reported, .root = HOST_ROOT };
    const struct spec_reader strict = { .problem = no_problem, .warning = no_problem };
    auto_json json_t *json = NULL, *first = NULL, *second = NULL;
    auto_spec struct spec spec = { 0 }, again = { 0 };

    if (json_parse((const char *)data, size, &json, NULL) < 0)
        return 0;
    if (!spec_is_spvm(json))
        return 0;
    int r = spec_load(json, &reader, &spec);
    require(r == reported);
    if (r != 0)
        return 0;
    require(spec_emit(&spec, &first) == 0);
    require(!spec_is_spvm(first));
    require(spec_load(first, &strict, &again) == 0);
    require(spec_emit(&again, &second) == 0);
    require(json_equal(first, second));
    (void)spec_load_host(json, &spec, &reader);
    return 0;
}
