/* A snapshot's record: what is accepted leads nowhere it shouldn't, and can be written again. */
#include "proto/snapshot.h"

#include "lib/base/parse.h"
#include "proto/memory_image.h"
#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(snapshot, struct snapshot)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_snapshot struct snapshot snapshot = { 0 };
    auto_json json_t *written = NULL, *spec = NULL;

    if (use_snapshot(data, size, &snapshot) < 0)
        return 0;
    require(name_is_valid(snapshot.name) && name_is_valid(snapshot.vm));
    require(image_ram_size_is_valid(snapshot.ram_size) && snapshot.present_pages <= snapshot.ram_size / IMAGE_PAGE);
    for (size_t i = 0; i < snapshot.n_disks; i++) {
        require(name_is_valid(snapshot.disks[i].node) && snapshot.disks[i].n_layers > 0);
        for (size_t k = 0; k < snapshot.disks[i].n_layers; k++)
            require(snapshot.disks[i].layers[k].path[0] == '/');
    }
    require(!snapshot.spec || json_parse(snapshot.spec, strlen(snapshot.spec), &spec, NULL) == 0);
    require(snapshot_to_json(&snapshot, &written) == 0);
    return 0;
}
