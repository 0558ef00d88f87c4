/* cloud-init's NoCloud seed. ISO 9660 rather than VFAT, the other file system it is looked for on: one program makes it in one go, names need
 * no short form, and nothing on it can be written to by the guest. */
#include <errno.h>

#include "lib/base/strv.h"
#include "lib/disk/recipe.h"

int make_iso(const struct making *m, struct err *err)
{
    /* "set_to_mtime" and the folder's own times would be the copy's: all are the epoch's. */
    const char *argv[] = { "xorriso",          "-abort_on", "FAILURE", "-return_with",   "SORRY", "32", "-as",
                           "mkisofs",          "-quiet",    "-V",      m->recipe->label, "-J",    "-r", "--set_all_file_dates",
                           "2000010100000000", "-o",        m->image,  m->root,          NULL };

    return make_run("xorriso", (char *const *)(uintptr_t)argv, NULL, err);
}
