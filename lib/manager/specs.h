/* The folder of specs, CONFIG/vms or as the host config says: which VMs there are, and the files' text. What a spec means is lib/spec's matter. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/json.h"
#include "lib/manager/spec_folder.h"
#include "lib/manager/vm.h"

struct manager;

/* Reads all names, and adds the VMs. A file that can't be read or parsed shows its VM (by the file's name) with the reason. Blocks: for the
 * start. */
int specs_scan(struct manager *m, struct err *err);

/* A spec as a native one, whichever form it is written in. -EINVAL: what it means can't be told. May block, as specs_read(). */
int specs_to_native(const json_t *json, json_t **ret_native);

/* The name of the VM's file; valid until it changes. */
const char *specs_file(const struct vm *vm, char buf[VM_PATH_MAX]);

/* Whether two files still claim this VM. When one of them is gone by now, the other is its spec from here on. */
bool specs_is_twice(struct vm *vm);

/* Which other VM's spec is in the file that a new spec of `name` would be written to, or NULL. */
const struct vm *specs_file_owner(const struct manager *m, const char *name);

/* What the manager keeps of a spec that parses; of one that a command has written. */
void specs_note(struct vm *vm, const json_t *spec);
/* The same, of a look at its file. */
void specs_note_facts(struct vm *vm, const char *digest, bool enabled, uint8_t policy);
/* What is read in it but not followed is logged. */
void specs_warn(const struct vm *vm, const json_t *spec);

/* For spec_parse(): adds a Problem of io.holdfast.Manager to the array `arg`. */
void specs_collect_problem(void *arg, const struct err *err);
/* All problems in one line: the first, and how many more. */
int specs_problems_err(const json_t *problems, struct err *err);
