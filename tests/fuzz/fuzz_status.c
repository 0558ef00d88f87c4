/* A status record as a manager finds it: whoever wrote it. */
#include "proto/status.h"

#include "lib/base/parse.h"
#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(status, struct status)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_status struct status status = { 0 };

    if (use_status(data, size, &status) < 0)
        return 0;
    require(name_is_valid(status.name) && status.boot_id);
    require(status.state >= 0 && status.state < STATE_COUNT);
    require(!status.qemu.pid || status.qemu.start_time);
    require(!status.shim.pid || status.shim.start_time);
    return 0;
}
