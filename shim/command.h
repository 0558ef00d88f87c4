/* The command that QEMU is started with this time: the plan's, and what only this launch has. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/strv.h"
#include "proto/plan.h"

struct vm;

struct command {
    struct strv argv, env;
    struct plan_file *files; /* opened in QEMU's child, privileges.h */
    size_t n_files;
};

/* -ENOMEM, or what the VM's disk layers say. */
int command_build(const struct vm *vm, struct command *ret_command, struct err *err);
void command_clear(struct command *c);
#define auto_command auto_cleanup(command_clear)
