#include "cmd/vmctl/image.h"

#include <errno.h>

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    auto_free char *folder = NULL;
    struct image_word image;
    char bytes[BYTES_MAX];
    enum outcome outcome = image_word_read(in, in->args[0], true, &image);

    if (outcome != OUTCOME_DONE)
        return outcome;
    folder = realpath(in->args[1], NULL); /* the service has another working folder */
    if (!folder) {
        complain("%s: %s", in->args[1], strerror(errno));
        return OUTCOME_FAILED;
    }
    json_t *parameters = image_parameters(&image);
    json_object_set_new(parameters, "folder", must_json(json_string(folder)));
    outcome = image_follow_consume(in, "Import", "importing", in->args[0], parameters, &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_t *release = json_object_get(reply, "release");
    image_complete(release);
    if (in->json)
        put_json(release);
    say(in, "%s: imported and verified (%s)", in->args[0], text_bytes((uint64_t)member_int(release, "size"), bytes));
    return OUTCOME_DONE;
}

const struct verb verb_image_import = {
    .name = "image import",
    .args = "NAME/VERSION FOLDER",
    .group = "images",
    .summary = "take a release from a folder with its vm.json, with no network",
    .details =
        "The files are copied and verified as if they had been fetched; where the image's source has a public key, the folder must have\n"
        "vm.json.minisig.",
    .example = "vmctl image import sp-vm/build-7 /media/usb/build-7",
    .takes = TAKES_IMAGE_AND_FOLDER,
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
