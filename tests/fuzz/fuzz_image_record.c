/* image.json of a release. */
#include "lib/images/names.h"
#include "lib/images/release.h"
#include "tests/fuzz/record_target.h"

DEFINE_RECORD_TARGET(image_record, struct image_record)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    auto_image_record struct image_record record = { 0 };

    if (use_image_record(data, size, &record) < 0)
        return 0;
    require(image_name_is_valid(record.name) && image_version_is_valid(record.version));
    for (size_t i = 0; i < record.n_files; i++)
        require(image_name_is_valid(record.files[i].filename));
    return 0;
}
