#include "cmd/vmctl/image.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome delete_one(const struct invocation *in, const char *text, json_t *results)
{
    auto_json json_t *reply = NULL;
    struct image_word image;
    char bytes[BYTES_MAX];
    enum outcome outcome = image_word_read(in, text, true, &image);

    if (outcome == OUTCOME_DONE)
        outcome = image_call_consume(in, "Delete", image_parameters(&image), &reply);
    if (outcome == OUTCOME_DONE)
        say(in, "%s: deleted, %s freed", text, text_bytes((uint64_t)member_int(reply, "freed"), bytes));
    json_array_append_new(results, must_json(json_pack("{s:s, s:b}", "image", text, "done", outcome == OUTCOME_DONE)));
    return outcome;
}

static enum outcome run(const struct invocation *in) { return each_argument(in, delete_one); }

const struct verb verb_image_delete = {
    .name = "image delete",
    .args = "NAME/VERSION...",
    .group = "images",
    .summary = "delete releases that no VM uses",
    .details = "Refused while a VM runs with a release, or was started with it last.",
    .example = "vmctl image delete sp-vm/build-6",
    .takes = TAKES_IMAGES,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
