/* Which files a VM's disks consist of: what is accepted names no file that two disks write. */
#include "proto/disks.h"

#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(disks, struct disks)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_disks struct disks disks = { 0 }, copy = { 0 };

    if (use_disks(data, size, &disks) < 0)
        return 0;
    for (size_t i = 0; i < disks.n_disks; i++) {
        require(disks.disks[i].n_layers > 0 && disks.disks[i].n_layers <= LAYERS_MAX && disks.disks[i].layers[0].path[0] == '/');
        require(disks_find(&disks, disks.disks[i].plan_path) == &disks.disks[i]);
        for (size_t k = 0; k < i; k++)
            require(!streq(disks.disks[i].layers[0].path, disks.disks[k].layers[0].path));
    }
    require(disks_copy(&disks, &copy) == 0 && copy.n_disks == disks.n_disks);
    return 0;
}
