/* A spec from anywhere: whatever is accepted can be written out, read back as the same, and resolved to a plan whose option values are
 * whole. */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void report(void *arg, const struct err *err)
{
    int *n = arg;

    require(err_is_set(err) && err->text[0] && !strchr(err->text, '\n'));
    (*n)++;
}

static bool option_takes_json(const char *option)
{
    return streq(option, "-device") || streq(option, "-blockdev") || streq(option, "-netdev") || streq(option, "-object");
}

static void check_plan(const struct spec *spec)
{
    char machine[] = "pc-q35-7.2", version[] = "7.2.22";
    struct qemu_capabilities capabilities = { .version = version, .machine = machine };
    struct resolve_input in = {
        .spec = spec,
        .capabilities = &capabilities,
        .qemu_path = "/usr/bin/qemu",
        .qemu_img_path = "/usr/bin/qemu-img",
        .mkdisk_path = "/usr/bin/holdfast-mkdisk",
        .config_digest = spec->config_disk.wanted ? "00112233445566778899aabbccddeeff" : NULL,
        .seed_digest = spec->seed.wanted ? "ffeeddccbbaa99887766554433221100" : NULL,
        .kvm_usable = true,
        .run_dir = "/run/x",
        .state_dir = "/state/x",
        .log_dir = "/log/x",
        .vsock_cid = 3,
    };
    auto_plan struct plan plan = { 0 }, again = { 0 };
    auto_json json_t *json = NULL;
    size_t n = 0;

    require(plan_resolve(&in, &plan, NULL) == 0);
    require(plan_to_json(&plan, &json) == 0);
    require(plan_from_json(json, &again, NULL) == 0);
    while (plan.qemu.argv[n])
        n++;
    for (size_t i = 0; spec->qemu.extra_args && spec->qemu.extra_args[i]; i++)
        n--;
    for (size_t i = 0; i + 1 < n; i++) {
        auto_json json_t *value = NULL;
        const char *text = plan.qemu.argv[i + 1];
        if (option_takes_json(plan.qemu.argv[i]))
            require(json_parse(text, strlen(text), &value, NULL) == 0);
        if (streq(plan.qemu.argv[i], "-append") || streq(plan.qemu.argv[i], "-kernel"))
            i++; /* words of the operator's, which may look like an option */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_json json_t *json = NULL, *first = NULL, *second = NULL;
    auto_spec struct spec spec = { 0 }, again = { 0 };
    int reported = 0;

    if (json_parse((const char *)data, size, &json, NULL) < 0)
        return 0;
    int r = spec_parse(json, report, &reported, &spec);
    require(r == reported);
    if (r != 0)
        return 0;
    require(spec_emit(&spec, &first) == 0);
    require(spec_parse(first, NULL, NULL, &again) == 0);
    require(spec_emit(&again, &second) == 0);
    require(json_equal(first, second));
    check_plan(&spec);
    return 0;
}
