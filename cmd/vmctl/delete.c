#include "cmd/vmctl/change.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static char *told(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    char *line = must(strdup("deleted"));
    size_t i;
    json_t *path;

    json_array_foreach (json_object_get(reply, "kept"), i, path) {
        char *longer = NULL;
        const char *text = json_string_value(path);
        if (str_format(&longer, "%s%s%s", line, i ? ", " : "; kept: ", text ? text : "?") < 0)
            must(NULL);
        free(line);
        line = longer;
    }
    return line;
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *parameters = must_json(json_object());

    if (in->force)
        json_object_set_new(parameters, "force", json_true());
    if (in->purge)
        json_object_set_new(parameters, "purge", json_true());
    const struct change change = {
        .method = "Delete",
        .doing = "deleting",
        .parameters = parameters,
        .timeout_ms = -1,
        .wait = true,
        .told = told,
    };
    return change_verb(in, &change);
}

static const struct flag flags[] = {
    FLAG_ALL,
    { "force", 0, FLAG_SET, NULL, "also VMs that run: they are stopped first", offsetof(struct invocation, force), NULL },
    { "purge", 0, FLAG_SET, NULL, "with their disks", offsetof(struct invocation, purge), NULL },
    FLAGS_END,
};

const struct verb verb_delete = {
    .name = "delete",
    .args = "NAME...",
    .group = "declare",
    .summary = "forget VMs; their disks are kept unless --purge is given",
    .example = "vmctl delete web\nvmctl delete web --force --purge",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
