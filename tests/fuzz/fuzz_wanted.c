/* The operator's wish from disk. */
#include "proto/wanted.h"

#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(wanted, struct wanted)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_wanted struct wanted wanted = { 0 };

    if (use_wanted(data, size, &wanted) < 0)
        return 0;
    require(wanted.wish == WANTED_STOPPED || wanted.wish == WANTED_RUNNING);
    return 0;
}
