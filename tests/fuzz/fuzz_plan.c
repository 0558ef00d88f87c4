/* A launch plan as a shim reads it: what is accepted can be written out and is then the same plan, and its argv tells the hardware. */
#include <stdint.h>
#include <stdlib.h>

#include "lib/base/json.h"
#include "lib/base/util.h"
#include "lib/qemu/hardware.h"
#include "proto/plan.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

/* An argv can be read or not; what was read fits itself. */
static void see_hardware(const struct plan *plan)
{
    auto_hardware struct hardware hardware = { 0 };

    if (hardware_from_plan(plan, "7.2.22", &hardware) == 0)
        require(hardware_fits(&hardware, &hardware, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_json json_t *json = NULL, *written = NULL;
    auto_plan struct plan plan = { 0 }, again = { 0 };
    struct err err = ERR_INIT;
    char digest[17], again_digest[17];

    if (json_parse((const char *)data, size, &json, NULL) < 0)
        return 0;
    if (plan_from_json(json, &plan, &err) < 0) {
        require(err_is_set(&err));
        return 0;
    }
    require(plan_to_json(&plan, &written) == 0);
    require(plan_from_json(written, &again, NULL) == 0);
    require(plan_digest(&plan, digest) == 0 && plan_digest(&again, again_digest) == 0);
    require(streq(digest, again_digest));
    see_hardware(&plan);
    return 0;
}
