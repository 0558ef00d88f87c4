#include "cmd/vmctl/image.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

static void show_files(const json_t *release)
{
    const json_t *file;
    char bytes[BYTES_MAX];
    size_t i;

    json_array_foreach (json_object_get(release, "files"), i, file) {
        auto_free char *line = NULL;

        if (str_format(&line, "%s (%s, SHA-256 %s)", member_text(file, "filename"), text_bytes((uint64_t)member_int(file, "size"), bytes),
                       member_text(file, "sha256")) < 0)
            must(NULL);
        vm_view_line(member_text(file, "role"), line);
    }
}

static void show(const json_t *release)
{
    auto_free char *users = image_users(release), *size = NULL, *from = NULL;
    char bytes[BYTES_MAX], disk[BYTES_MAX];

    if (str_format(&size, "%s, on the disk %s", text_bytes((uint64_t)member_int(release, "size"), bytes),
                   text_bytes((uint64_t)member_int(release, "disk"), disk)) < 0 ||
        str_format(&from, "%s, %s", member_text(release, "source"), member_text(release, "fetched_at")) < 0)
        must(NULL);
    printf("%s/%s\n", member_text(release, "name"), member_text(release, "version"));
    vm_view_line("problem", member_text(release, "problem"));
    if (json_is_true(json_object_get(release, "verified")))
        vm_view_line("state", json_is_true(json_object_get(release, "newest")) ? "verified, the newest" : "verified");
    vm_view_line("from", from);
    vm_view_line("path", member_text(release, "path"));
    vm_view_line("size", size);
    vm_view_line("used by", users);
    show_files(release);
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *reply = NULL, *verified = NULL;
    struct image_word image;
    enum outcome outcome = image_word_read(in, in->args[0], false, &image);
    bool is_newest = outcome == OUTCOME_DONE && !strchr(in->args[0], '/');

    if (outcome == OUTCOME_DONE && (!in->image_verify || is_newest))
        outcome = image_call_consume(in, "GetRelease", image_parameters(&image), &reply);
    if (outcome == OUTCOME_DONE && in->image_verify) { /* which takes no "auto" */
        if (is_newest)
            image.version = member_text(json_object_get(reply, "release"), "version");
        outcome = image_follow_consume(in, "Verify", "verifying", in->args[0], image_parameters(&image), &verified);
        json_decref(reply);
        reply = steal_ptr(&verified);
    }
    if (outcome != OUTCOME_DONE)
        return outcome;
    json_t *release = json_object_get(reply, "release");
    image_complete(release);
    if (in->json)
        put_json(release);
    else
        show(release);
    return OUTCOME_DONE;
}

static const struct flag flags[] = {
    { "verify", 0, FLAG_SET, NULL, "read all of it and compare the checksums", offsetof(struct invocation, image_verify), NULL },
    FLAGS_END,
};

const struct verb verb_image_show = {
    .name = "image show",
    .args = "NAME[/VERSION]",
    .group = "images",
    .summary = "show a release and its files, or those of the newest",
    .details = "That the files are those that were verified is known by their sizes, times and inodes; --verify reads them.",
    .example = "vmctl image show sp-vm/build-7 --verify",
    .flags = flags,
    .takes = TAKES_ONE_IMAGE,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
