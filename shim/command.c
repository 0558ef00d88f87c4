#include "shim/command.h"

#include <errno.h>

#include "shim/layers.h"
#include "shim/ram.h"
#include "shim/restore.h"
#include "shim/vm.h"

static int build_env(const struct vm *vm, struct strv *env)
{
    for (size_t i = 0; vm->plan.qemu.env && vm->plan.qemu.env[i]; i++)
        strv_push(env, vm->plan.qemu.env[i]);
    for (const char *const *more = ram_environment(vm->ram); *more; more++)
        strv_push(env, *more);
    return env->failed ? -ENOMEM : 0;
}

/* The disks as they are now, or as the snapshot has them. */
static int build_layers(const struct vm *vm, struct command *c, struct err *err)
{
    auto_layered struct layered layered = { 0 };
    auto_disks struct disks loaded = { 0 };
    const struct disks *disks = restore_disks(vm);
    int r = disks ? 0 : layers_load(vm->state_fd, &vm->plan, &loaded, err);

    if (r >= 0 && !disks)
        (void)layers_sweep(vm->state_fd, &loaded);
    if (r >= 0)
        r = layers_apply(&vm->plan, disks ? disks : &loaded, &layered, err);
    if (r >= 0 && vm_is_restoring(vm)) {
        strv_push(&layered.argv, "-incoming");
        strv_push(&layered.argv, "defer");
    }
    if (r >= 0 && layered.argv.failed)
        r = -ENOMEM;
    if (r < 0)
        return r;
    c->argv = layered.argv;
    c->files = layered.files;
    c->n_files = layered.n_files;
    layered = (struct layered){ 0 };
    return 0;
}

int command_build(const struct vm *vm, struct command *ret_command, struct err *err)
{
    auto_command struct command c = { 0 };
    int r = build_layers(vm, &c, err);

    if (r >= 0)
        r = build_env(vm, &c.env);
    if (r < 0)
        return err_from(err, r, "building QEMU's command");
    *ret_command = c;
    c = (struct command){ 0 };
    return 0;
}

void command_clear(struct command *c)
{
    strv_clear(&c->argv);
    strv_clear(&c->env);
    for (size_t i = 0; i < c->n_files; i++)
        free(c->files[i].path);
    free(c->files);
    *c = (struct command){ 0 };
}
