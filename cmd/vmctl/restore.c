#include "cmd/vmctl/change.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/snapshot.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

/* "running (0.2 s), restored from web/before; its host port is not forwarded: web has it". */
static char *told(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    const struct snapshot_name *from = arg;
    char *line = NULL, elapsed[ELAPSED_MAX];
    const json_t *note;
    size_t i;

    if (str_format(&line, "%s (%s), restored from %s/%s", member_text(json_object_get(reply, "vm"), "state"),
                   text_elapsed(took_ms, elapsed), from->vm, from->snapshot) < 0)
        must(NULL);
    json_array_foreach (json_object_get(reply, "notes"), i, note) {
        char *longer = NULL;
        const char *text = json_string_value(note);

        if (str_format(&longer, "%s; %s", line, text ? text : "?") < 0)
            must(NULL);
        free(line);
        line = longer;
    }
    return line;
}

static enum outcome run(const struct invocation *in)
{
    struct snapshot_name from;
    enum outcome outcome = name_check(in, in->args[0]);

    if (outcome == OUTCOME_DONE)
        outcome = snapshot_name_read(in, in->args[1], in->args[0], &from);
    if (outcome == OUTCOME_DONE)
        outcome = snapshot_mode_check(in);
    if (outcome != OUTCOME_DONE)
        return outcome;
    auto_json json_t *parameters = must_json(
        json_pack("{s:s, s:s, s:s*, s:b}", "snapshot_vm", from.vm, "snapshot", from.snapshot, "mode", in->mode, "force", (int)in->force));
    const struct change change = {
        .method = "Restore",
        .doing = "restoring",
        .parameters = parameters,
        .timeout_ms = -1,
        .wait = true,
        .told = told,
        .arg = &from,
    };
    return change_run(in, &change, in->args, 1);
}

static const struct flag flags[] = {
    FLAG_MODE,
    { "force", 0, FLAG_SET, NULL, "also a VM that runs: it is stopped first", offsetof(struct invocation, force), NULL },
    FLAGS_END,
};

const struct verb verb_restore = {
    .name = "restore",
    .args = "VM SNAPSHOT",
    .group = "snapshots",
    .summary = "let a VM go on from a snapshot, its own or another VM's",
    .details =
        "SNAPSHOT is a NAME, or VM/NAME. A VM that has no spec gets one made of the snapshot's, without its host ports and fixed\n"
        "addresses. lazy: memory comes when the guest asks for it; mapped: the kernel reads it from the snapshot's file, which is needed\n"
        "for as long as the VM runs; eager: all of it is loaded first.",
    .example = "vmctl restore web before-upgrade --force\nvmctl restore web-copy web/before-upgrade",
    .flags = flags,
    .takes = TAKES_VM_AND_SNAPSHOT,
    .min_args = 2,
    .max_args = 2,
    .run = run,
};
