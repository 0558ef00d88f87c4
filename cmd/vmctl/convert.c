#include "cmd/vmctl/output.h"
#include "cmd/vmctl/spec_file.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

static enum outcome run(const struct invocation *in)
{
    auto_spec_file struct spec_file f = { 0 };
    auto_map struct map *names = NULL;
    auto_json json_t *native = NULL;

    if (map_new(&names) < 0)
        must(NULL);
    /* With what this host says, since "auto" in a file is what the host offers. */
    enum outcome outcome = spec_file_load(in, in->args[0], names, true, &f);
    spec_file_complain(&f);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (spec_emit(&f.spec, &native) < 0)
        must(NULL);
    put_json(native);
    return OUTCOME_DONE;
}

const struct verb verb_convert = {
    .name = "convert",
    .args = "FILE",
    .group = "declare",
    .summary = "print the native spec that a VM file of sp-vm stands for",
    .details =
        "All defaults are written out. What can't be converted is a line on standard error, as of check, and then nothing is printed. A file\n"
        "that is native already is printed with its defaults. FILE may be - for standard input. No manager is needed.",
    .example = "vmctl convert sp-vm-1.json > native.json",
    .takes = TAKES_FILES,
    .min_args = 1,
    .max_args = 1,
    .run = run,
};
