/* Help, made from the table of verbs. */
#pragma once

#include "cmd/vmctl/verb.h"

/* Of one verb; of a family ("shim") when `verb` is NULL and `family` isn't; of everything when both are NULL. */
enum outcome help_print(const struct invocation *in, const struct verb *verb, const char *family);
