/* Nothing of a VM lives: what was its end? Told once, on disk before anybody acts on it. */
#pragma once

#include "lib/manager/records.h"
#include "lib/manager/vm.h"

/* Both locks are free. Reads the records when the end isn't known yet, explains an unexplained end (last-exit.json with kind unknown), then
 * the VM is PRESENCE_GONE and vm_changed() is called. */
void down_begin(struct vm *vm);

/* The end of the incarnation that the records tell of but don't explain: true and *ret_exit to be written, or false when there is nothing to
 * explain. Pure but for the clock. `incarnation` is the highest known; `relaunch` whether the wish and policy start it again. */
struct down_facts {
    const char *name;
    const char *boot_id; /* of now */
    const struct records *records;
    const struct wanted *wanted;
    uint64_t incarnation;
    uint64_t event_seq; /* newest known to the manager */
    bool may_relaunch;  /* wish and policy allow it, should it have died in this boot */
};
int down_explain(const struct down_facts *facts, struct exit_record *ret_exit, bool *ret_rebooted); /* 1, 0, -ENOMEM */
