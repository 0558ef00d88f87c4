/* The VMs a command is about: those named, or with --all every one. */
#pragma once

#include <jansson.h>

#include "cmd/vmctl/verb.h"
#include "lib/base/strv.h"

/* Each name once, in the order given; names that can't be are complained about. --all asks the manager. */
enum outcome names_resolve(const struct invocation *in, struct strv *ret_names);
/* Whether `name` could be a VM's; complains when not. */
enum outcome name_check(const struct invocation *in, const char *name);
/* The outcome of several: that of the failures when they agree, OUTCOME_FAILED when not. */
enum outcome outcome_merge(enum outcome so_far, enum outcome next);

/* Does `one` to each argument, until nobody answers. What it adds to `results` is printed as an array with --json. */
enum outcome each_argument(const struct invocation *in,
                           enum outcome (*one)(const struct invocation *in, const char *text, json_t *results));
