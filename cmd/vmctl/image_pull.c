#include "cmd/vmctl/image.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static void tell(const struct invocation *in, const json_t *reply)
{
    const json_t *release = json_object_get(reply, "release");
    const char *note = member_text(reply, "note");
    char bytes[BYTES_MAX];

    if (*note)
        complain("%s", note);
    say(in, "%s/%s: %s (%s in %s)", member_text(release, "name"), member_text(release, "version"),
        json_is_true(json_object_get(reply, "already")) ? "is here" : "fetched and verified",
        text_bytes((uint64_t)member_int(release, "size"), bytes), member_text(release, "path"));
}

static enum outcome cancel(const struct invocation *in, const char *text)
{
    auto_json json_t *reply = NULL;
    struct image_word image;
    enum outcome outcome = image_word_read(in, text, true, &image);

    if (outcome == OUTCOME_DONE)
        outcome = image_call_consume(in, "Cancel", image_parameters(&image), &reply);
    if (outcome == OUTCOME_DONE)
        say(in, "%s: cancelled", text);
    return outcome;
}

static enum outcome pull(const struct invocation *in, const char *text, json_t *results)
{
    auto_json json_t *reply = NULL;
    struct image_word image;
    enum outcome outcome = image_word_read(in, text, false, &image);

    if (outcome == OUTCOME_DONE)
        outcome = image_follow_consume(in, "Pull", "pulling", text, image_parameters(&image), &reply);
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_object_del(reply, "progress");
    image_complete(json_object_get(reply, "release"));
    tell(in, reply);
    json_array_append(results, reply);
    return OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *results = must_json(json_array());
    enum outcome outcome = OUTCOME_DONE;

    for (size_t i = 0; i < in->n_args; i++) {
        enum outcome one = in->image_cancel ? cancel(in, in->args[i]) : pull(in, in->args[i], results);

        outcome = outcome_merge(outcome, one);
        if (one == OUTCOME_UNREACHABLE)
            break;
    }
    if (in->json && outcome != OUTCOME_USAGE && !in->image_cancel)
        put_json(results);
    return outcome;
}

static const struct flag flags[] = {
    { "cancel", 0, FLAG_SET, NULL, "end a pull, and remove what of it is here", offsetof(struct invocation, image_cancel), NULL },
    FLAGS_END,
};

const struct verb verb_image_pull = {
    .name = "image pull",
    .args = "NAME[/VERSION]...",
    .group = "images",
    .summary = "fetch and verify releases, or the newest one",
    .details =
        "The image service does it: it goes on when vmctl is ended or the terminal closed, and another pull of the same release joins it.\n"
        "What was cut off is gone on with where it was. While the source is down the newest release that is here does as well.",
    .example = "vmctl image pull sp-vm",
    .flags = flags,
    .takes = TAKES_IMAGES,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
