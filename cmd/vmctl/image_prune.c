#include "cmd/vmctl/image.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static void tell(const struct invocation *in, const json_t *reply)
{
    const char *done = in->dry_run ? "would be deleted" : "deleted";
    const json_t *one;
    char bytes[BYTES_MAX];
    size_t i;

    json_array_foreach (json_object_get(reply, "deleted"), i, one)
        say(in, "%s/%s: %s (%s)", member_text(one, "name"), member_text(one, "version"), done,
            text_bytes((uint64_t)member_int(one, "size"), bytes));
    json_array_foreach (json_object_get(reply, "kept"), i, one)
        say(in, "%s/%s: kept: %s", member_text(one, "name"), member_text(one, "version"), member_text(one, "reason"));
    say(in, "%s %s", text_bytes((uint64_t)member_int(reply, "freed"), bytes), in->dry_run ? "would be freed" : "freed");
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL;
    json_t *parameters = must_json(json_pack("{s:s*, s:b}", "name", in->n_args ? in->args[0] : NULL, "dry_run", (int)in->dry_run));
    enum outcome outcome = image_call_consume(in, "Prune", parameters, &reply);

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->json)
        put_json(reply);
    else
        tell(in, reply);
    return OUTCOME_DONE;
}

static const struct flag flags[] = {
    { "dry-run", 'n', FLAG_SET, NULL, "only say what would be deleted", offsetof(struct invocation, dry_run), NULL },
    FLAGS_END,
};

const struct verb verb_image_prune = {
    .name = "image prune",
    .args = "[NAME]",
    .group = "images",
    .summary = "delete the releases beyond the number that is to be kept",
    .details = "The number is keep_versions of the host config. A release in use stays, and so does the newest verified one of each name.",
    .example = "vmctl image prune --dry-run",
    .flags = flags,
    .takes = TAKES_ONE_IMAGE,
    .max_args = 1,
    .run = run,
};
