/* Spec files of the command line: read, parsed, checked, and their mistakes told. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/base/map.h"
#include "lib/base/strv.h"
#include "lib/spec/load.h"

struct spec_file {
    const char *path;  /* borrowed; "-": standard input */
    const char *shown; /* as it is called in messages */
    char *keys;        /* the authorized_keys file of the host config, for sp-vm files; or NULL */
    json_t *json;      /* as written; NULL when it couldn't be read */
    struct spec spec;  /* valid when there are no problems */
    json_t *problems;  /* array of {path, reason} */
    json_t *warnings;  /* the same, of what is read but not followed */
};

/* FILE arguments; a folder stands for all the *.json in it, in order of their names. Complains. */
enum outcome spec_files_expand(const struct invocation *in, struct strv *ret_paths);

/* Reads and checks one; `names` remembers which file has which VM, so that the second with a name is told. With `host` also what only this
 * host can say, of the disks in the state folder of `in` too. OUTCOME_FAILED when it has problems. Nothing is printed. */
enum outcome spec_file_load(const struct invocation *in, const char *path, struct map *names, bool host, struct spec_file *ret_file);
void spec_file_clear(struct spec_file *f);
#define auto_spec_file auto_cleanup(spec_file_clear)

/* Adds a problem from elsewhere; and prints them all, a line each: "FILE: /disks/0/size: …", warnings as "FILE: warning: /comment: …". */
void spec_file_add_problem(struct spec_file *f, const char *path, const char *reason);
void spec_file_complain(const struct spec_file *f);
