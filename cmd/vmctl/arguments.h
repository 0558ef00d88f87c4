/* The command line: global options, a verb, the verb's options and arguments, all by the tables of verb.h. */
#pragma once

#include "cmd/vmctl/verb.h"

/* Fills `in`, which the caller zeroed. OUTCOME_DONE, or OUTCOME_USAGE after complaining. With --help or --version before any verb,
 * in->verb is NULL. argv is reordered. */
enum outcome arguments_parse(int argc, char **argv, struct invocation *in);
