#include "cmd/vmctl/output.h"
#include "cmd/vmctl/spec_claims.h"
#include "cmd/vmctl/spec_file.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome check_one(const struct invocation *in, const char *path, struct map *names, struct claimants *claimants,
                              json_t *results)
{
    auto_spec_file struct spec_file f = { 0 };
    enum outcome outcome = spec_file_load(in, path, names, true, &f);

    if (outcome == OUTCOME_DONE)
        claimants_add(claimants, &f);
    if (json_array_size(f.problems))
        outcome = OUTCOME_FAILED;
    if (in->json)
        json_array_append_new(results, must_json(json_pack("{s:s, s:s?, s:b, s:O, s:O}", "file", f.shown, "name", f.spec.name, "ok",
                                                           outcome == OUTCOME_DONE, "problems", f.problems, "warnings", f.warnings)));
    else if (outcome == OUTCOME_DONE)
        say(in, "%s: good (%s)", f.shown, f.spec.name);
    if (!in->json)
        spec_file_complain(&f);
    return outcome;
}

static enum outcome run(const struct invocation *in)
{
    auto_strv struct strv paths = { 0 };
    auto_claimants struct claimants claimants = { 0 };
    auto_map struct map *names = NULL;
    auto_json json_t *results = must_json(json_array());

    if (map_new(&names) < 0)
        must(NULL);
    enum outcome outcome = spec_files_expand(in, &paths);
    for (size_t i = 0; i < paths.n; i++)
        if (check_one(in, paths.items[i], names, &claimants, results) != OUTCOME_DONE)
            outcome = OUTCOME_FAILED;
    if (in->json)
        put_json(results);
    return outcome;
}

const struct verb verb_check = {
    .name = "check",
    .args = "FILE...",
    .group = "declare",
    .summary = "find the mistakes in specs, without doing anything",
    .details =
        "Every mistake is a line on standard error: the file, where in it (a JSON Pointer), what is wrong. FILE is a native spec or a VM\n"
        "file of sp-vm, of which unknown keys are warnings; it may be a folder (all its *.json) or - for standard input. Of several,\n"
        "those that are enabled are held against each other: no two may have the same name, host port, MAC address, vsock context id or GPU.\n"
        "No manager is needed.",
    .example = "vmctl check web.json",
    .takes = TAKES_FILES,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
