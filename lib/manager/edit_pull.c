#include "lib/manager/edit_pull.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/base/util.h"
#include "lib/manager/image_pull.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/state.h"

struct edit_pull {
    struct image_pull *pull; /* NULL: it can't be had */
    char *image, *version;
    char *text; /* how far it is, or what is wrong */
};

static void edit_pull_free(struct edit_pull *e)
{
    image_pull_free(e->pull);
    free(e->image);
    free(e->version);
    free(e->text);
    free(e);
}

static void on_progress(void *arg, const char *text)
{
    const struct vm *vm = arg;

    (void)str_set(&vm->edit_pull->text, text);
}

static void on_done(void *arg, const struct err *err)
{
    struct vm *vm = arg;

    vm->edit_pull->pull = NULL;
    if (err) { /* shown until the spec or the host config is edited again */
        log_vm_warning(vm->name, "its edited spec changes nothing: %s", err->text);
        (void)str_set(&vm->edit_pull->text, err->text);
        return;
    }
    edit_pull_drop(vm);
    vm->edit_due = true;
    spec_edit_kick(vm->manager);
}

void edit_pull_begin(struct vm *vm, const char *image, const char *version)
{
    const struct image_pull_request request = { .name = image, .version = version, .progress = on_progress, .done = on_done, .arg = vm };
    struct edit_pull *e = vm->edit_pull;

    if (e && e->pull && streq(e->image, image) && streq_opt(e->version, version))
        return;
    edit_pull_drop(vm);
    e = calloc(1, sizeof(*e));
    if (!e || str_set(&e->image, image) < 0 || str_set(&e->version, version) < 0) {
        if (e)
            edit_pull_free(e);
        log_vm_error(vm->name, "out of memory: its edited spec changes nothing");
        return;
    }
    log_vm_info(vm->name, "its edited spec waits for image %s%s%s", image, version ? " " : "", version ? version : "");
    vm->edit_pull = e;
    if (image_pull_begin(vm->manager, &request, &e->pull) < 0) {
        log_vm_error(vm->name, "out of memory: its edited spec changes nothing");
        edit_pull_drop(vm);
    }
}

void edit_pull_drop(struct vm *vm)
{
    if (vm->edit_pull)
        edit_pull_free(steal_ptr(&vm->edit_pull));
}

char *edit_pull_reason(const struct vm *vm)
{
    const struct edit_pull *e = vm->edit_pull;
    char *text = NULL;

    if (!e || vm->presence != PRESENCE_SHIM)
        return NULL;
    (void)str_format(&text, "its spec was edited%s%s", e->pull ? ", and it is restarted with its new image: " : ": ",
                     e->text ? e->text : "to be downloaded");
    return text;
}
