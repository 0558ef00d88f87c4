/* Where a VM's memory comes from, for status and inspect. */
#pragma once

#include <jansson.h>

#include "lib/varlink/client.h"

/* Asks the manager for it and sets `memory` in the VM; null when nothing lives, or nobody can say. */
void vm_memory_add(struct varlink_client *client, json_t *vm);

/* "lazy from web/before, 412 of 512 MiB in": of a VM with that member. malloc'ed, "" when there is nothing to say. */
char *vm_memory_words(const json_t *vm);
