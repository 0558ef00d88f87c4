/* What a source says: a manifest, an index, a signature. What is accepted can't lead out of a release's folder. */
#include "lib/images/manifest.h"
#include "lib/images/minisign.h"
#include "lib/images/names.h"
#include "lib/images/release.h"
#include "tests/fuzz/record_target.h"

static void use_manifest(const struct manifest *m)
{
    require(m->n_files > 0 && m->n_files <= IMAGE_FILES_MAX);
    for (size_t i = 0; i < m->n_files; i++) {
        auto_free char *stored = manifest_file_stored_name(&m->files[i]);

        require(stored && image_name_is_valid(stored) && image_name_is_valid(m->files[i].filename));
        require(image_role_is_valid(m->files[i].role) && image_sha256_is_valid(m->files[i].sha256));
        require(!streq(stored, FILE_IMAGE) && !streq(stored, FILE_MANIFEST));
        require(i > 0 || !manifest_file_is_repeated(m, i));
    }
}

static void use_index(const json_t *index)
{
    const char *newest = index_newest(index);
    auto_manifest struct manifest m = { 0 };

    if (!newest)
        return;
    require(image_version_is_valid(newest) && index_files(index, newest));
    if (manifest_from_json(index_files(index, newest), &m, NULL) >= 0)
        use_manifest(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char key[] = "RWTvkQO2Jisy2CUZcTZKRUZ1xZe4aUZVzvm0Fe/o+hM4Fm742GSVe+Ko";
    auto_free char *text = strndup((const char *)data, size);
    auto_manifest struct manifest m = { 0 };
    auto_json json_t *index = NULL;
    struct err err = ERR_INIT, other = ERR_INIT;

    require(text);
    if (manifest_parse((const char *)data, size, &m, &err) >= 0)
        use_manifest(&m);
    else
        require(err.text[0]);
    if (index_parse((const char *)data, size, &index, &other) >= 0)
        use_index(index);
    else
        require(other.text[0]);
    (void)minisign_verify(key, text, "hello\n", 6, NULL);
    return 0;
}
