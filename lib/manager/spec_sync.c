#include "lib/manager/spec_sync.h"

#include <errno.h>

#include "lib/base/log.h"
#include "lib/manager/api.h"
#include "lib/manager/down.h"
#include "lib/manager/launch.h"
#include "lib/manager/planner.h"
#include "lib/manager/reconcile.h"
#include "lib/manager/registry.h"
#include "lib/manager/spec_change.h"
#include "lib/manager/spec_edit.h"
#include "lib/manager/spec_folder.h"
#include "lib/manager/spec_gone.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "lib/manager/wish.h"

const struct spec_folder *spec_sync_folder(const struct manager *m) { return &m->specs; }
bool spec_sync_is_lost(const struct manager *m) { return m->specs_lost; }

bool spec_sync_is_suspicious(const struct manager *m, const struct spec_folder *folder)
{
    return folder->n == 0 && m->specs_home.ino != 0 && (folder->dev != m->specs_home.dev || folder->ino != m->specs_home.ino);
}

void spec_sync_lost(struct manager *m, const char *why, bool away)
{
    m->specs_away = away;
    if (streq_opt(m->specs_lost, why))
        return;
    if (str_set(&m->specs_lost, why) >= 0)
        log_error("%s: what runs is left alone", why);
    spec_gone_review(m);
}

/* Whose spec a file is: as it says, or said before; or, when it never could be read, the VM of the file's name is shown with the error. */
static const char *name_of(const struct spec_entry *e, char buf[VM_PATH_MAX])
{
    size_t len = strlen(e->file) - strlen(SPEC_SUFFIX);

    if (e->name)
        return e->name;
    snprintf(buf, VM_PATH_MAX, "%.*s", (int)(len < VM_PATH_MAX ? len : VM_PATH_MAX - 1), e->file);
    return name_is_valid(buf) ? buf : NULL;
}

const char *spec_sync_riddle(const struct manager *m)
{
    for (size_t i = 0; i < m->specs.n; i++) {
        const struct spec_entry *e = &m->specs.items[i];
        char buf[VM_PATH_MAX];
        const char *name = e->name ? NULL : name_of(e, buf);
        const struct vm *vm = name ? registry_find(m, name) : NULL;

        if (!e->name && !(vm && (vm->has_wanted || vm->incarnation > 0)))
            return e->file;
    }
    return NULL;
}

static int note_file(struct vm *vm, const char *file)
{
    char buf[VM_PATH_MAX];

    snprintf(buf, sizeof(buf), "%s" SPEC_SUFFIX, vm->name);
    return str_set(&vm->spec_file, streq(buf, file) ? NULL : file);
}

static void set_error(struct vm *vm, const char *text)
{
    if (streq_opt(vm->spec_error, text))
        return;
    if (str_set(&vm->spec_error, text) >= 0)
        log_vm_warning(vm->name, "%s", text);
}

static void note(struct vm *vm, const struct spec_entry *e)
{
    (void)note_file(vm, e->file);
    if (e->json)
        specs_warn(vm, e->json);
    specs_note_facts(vm, e->digest, e->enabled, e->policy);
    (void)str_set(&vm->spec_error, NULL);
    free(steal_ptr(&vm->spec_second));
}

/* A file that can't be read changes nothing; once it can be again it counts as edited. */
static void broken(struct vm *vm, const struct spec_entry *e)
{
    if (!vm->has_spec)
        (void)note_file(vm, e->file);
    vm->has_spec = true;
    vm->spec_digest[0] = '\0';
    spec_gone_called_off(vm);
    set_error(vm, e->error);
}

/* The same VM in a second file: which of them counts is not for us to guess. */
static void twice(struct vm *vm, const struct spec_seen *seen)
{
    auto_free char *text = NULL;

    (void)note_file(vm, seen->first->file);
    vm->has_spec = true;
    spec_gone_called_off(vm);
    if (str_set(&vm->spec_second, seen->second->file) >= 0 &&
        str_format(&text, "its spec is in two files, %s and %s: remove one", seen->first->file, seen->second->file) >= 0)
        set_error(vm, text);
}

static bool lives(const struct vm *vm) { return vm->presence != PRESENCE_GONE || vm->launch; }

/* The operator says "enabled" where it wasn't: that is a start, whoever stopped it before. */
static void enable(struct vm *vm)
{
    uint64_t from;

    if (lives(vm) && vm->wanted.wish == WANTED_RUNNING)
        return;
    if (wish_restore_is_due(vm) || wish_restore_is_open(vm))
        return;
    (void)api_wish_life(vm, NULL, &from);
}

static void fresh(struct vm *vm, bool is_new)
{
    vm->failures = 0;
    vm->gave_up = false;
    if (is_new) {
        down_begin(vm); /* an earlier VM of this name may have left its last exit; then what its spec says is wished for */
        return;
    }
    if (vm->enabled && vm->wanted.by_spec && vm->wanted.wish == WANTED_STOPPED)
        enable(vm);
    else if (!lives(vm))
        wish_default(vm);
    vm->edit_due = true;
    vm_changed(vm);
}

static void edited(struct vm *vm, const struct spec_entry *e)
{
    bool was_enabled = vm->enabled, was_known = vm->enabled_known; /* also across a file that could not be read for a while */

    note(vm, e);
    log_vm_info(vm->name, "its spec %s was edited", e->file);
    /* What was in vain by the old spec may work by the new one. */
    vm->failures = 0;
    vm->gave_up = false;
    vm->edit_due = true;
    if (vm->enabled && (!was_enabled || vm->wanted.by_spec))
        enable(vm);
    else if (!vm->enabled && was_enabled && was_known && (!lives(vm) || launch_is_preparing(vm)) && vm->wanted.wish == WANTED_RUNNING)
        wish_stop_by_spec(vm);
    launch_plan_again(vm);
    vm_changed(vm);
}

enum mode {
    STARTING, /* VMs are only made known: what is to be done follows from their state, which isn't known yet */
    NEW,      /* the VM was not known before */
    LATER,
};

/* `seen` has at least one file. */
static void act(struct vm *vm, const struct spec_seen *seen, enum mode mode)
{
    const struct spec_known known = { vm->has_spec, vm->spec_second, vm->spec_digest };
    enum spec_change change = spec_change_of(&known, seen);

    if (vm->wanted.deleting || vm->forgetting)
        return;
    switch (change) {
    case SPEC_SAME:
        (void)note_file(vm, seen->first->file); /* it may be in another file now */
        break;
    case SPEC_NEW:
        note(vm, seen->first);
        if (mode == STARTING)
            break;
        log_vm_info(vm->name, "spec %s found", seen->first->file);
        spec_gone_called_off(vm);
        fresh(vm, mode == NEW);
        break;
    case SPEC_EDITED:
        edited(vm, seen->first);
        break;
    case SPEC_BROKEN:
        broken(vm, seen->first);
        break;
    case SPEC_TWICE:
        twice(vm, seen);
        break;
    case SPEC_GONE: /* of none that was seen */
        break;
    }
}

/* No file has it any more. */
static void gone(struct vm *vm)
{
    if (!vm->has_spec || vm->wanted.deleting || vm->forgetting)
        return;
    vm->has_spec = vm->check_due = vm->enabled_known = false;
    vm->spec_digest[0] = '\0';
    free(steal_ptr(&vm->spec_second));
    (void)str_set(&vm->spec_error, NULL);
    spec_gone_begin(vm);
}

/* Files by the VM they are of. One that can't be read counts only where no other has the VM. */
static int collect(const struct spec_folder *folder, struct map *seen, struct spec_seen *all)
{
    for (size_t i = 0; i < folder->n; i++) {
        const struct spec_entry *e = &folder->items[i];
        char buf[VM_PATH_MAX];
        const char *name = name_of(e, buf);
        struct spec_seen *s = name ? map_get(seen, name) : NULL;
        int r = 0;

        if (!name) {
            if (e->json || e->error)
                log_error("%s", e->error ? e->error : e->file);
        } else if (!s) {
            all[i].first = e;
            r = map_put(seen, name, &all[i]);
        } else if (s->first->error) {
            s->first = e->error ? s->first : e;
        } else if (!e->error && !s->second) {
            s->second = e;
        }
        if (r < 0)
            return r;
    }
    return 0;
}

/* The file that was its spec before comes first. */
static void put_first(const struct vm *vm, struct spec_seen *s)
{
    char buf[VM_PATH_MAX];

    if (s->second && streq(s->second->file, specs_file(vm, buf))) {
        const struct spec_entry *e = s->first;

        s->first = s->second;
        s->second = e;
    }
}

/* Made for a file that turned out to be another VM's, or whose spec is gone before anything came of it. */
static void drop_if_nothing(struct vm *vm)
{
    if (!vm->has_spec && !vm->has_wanted && vm->presence == PRESENCE_GONE && vm->incarnation == 0 && !vm->unclear && !vm->launch &&
        !vm->waiters)
        registry_remove(vm);
}

static int each_seen(struct manager *m, const struct map *seen, bool starting)
{
    map_foreach (seen, e) {
        const char *name = map_key(e);
        struct spec_seen *s = map_value(e);
        bool is_new = !registry_find(m, name);
        struct vm *vm = registry_get_or_add(m, name);

        if (!vm)
            return -ENOMEM;
        put_first(vm, s);
        act(vm, s, starting ? STARTING : is_new ? NEW : LATER);
    }
    return 0;
}

static int take(struct manager *m, struct spec_folder *folder, bool starting)
{
    auto_map struct map *seen = NULL;
    auto_free struct spec_seen *all = calloc(folder->n + 1, sizeof(*all));
    int r = all ? map_new(&seen) : -ENOMEM;

    spec_folder_clear(&m->specs);
    m->specs = *folder;
    *folder = (struct spec_folder){ 0 };
    if (m->specs.n > 0) {
        m->specs_home.dev = m->specs.dev;
        m->specs_home.ino = m->specs.ino;
    }
    if (r >= 0)
        r = collect(&m->specs, seen, all);
    if (r >= 0)
        r = each_seen(m, seen, starting);
    if (r < 0)
        return r;
    map_foreach (m->vms, e) {
        struct vm *vm = map_value(e);

        if (!map_get(seen, vm->name) && !starting) {
            gone(vm);
            drop_if_nothing(vm);
        }
    }
    for (size_t i = 0; i < m->specs.n; i++) {
        json_decref(m->specs.items[i].json);
        m->specs.items[i].json = NULL;
    }
    return 0;
}

int spec_sync_begin_take(struct manager *m, struct spec_folder *folder)
{
    /* Where all are gone at once that need not be anybody's will. */
    if (folder->n == 0 && str_set(&m->specs_empty, "the folder of specs was found empty") < 0)
        return -ENOMEM;
    return take(m, folder, true);
}

void spec_sync_take(struct manager *m, struct spec_folder *folder)
{
    if (m->specs_lost)
        log_info("the folder of specs is there again: %s", m->specs_dir);
    free(steal_ptr(&m->specs_lost));
    m->specs_away = false;
    if (folder->n > 0)
        free(steal_ptr(&m->specs_empty));
    if (take(m, folder, false) < 0) {
        log_error("out of memory: specs are looked at again with the next change");
        return;
    }
    spec_gone_review(m);
    spec_edit_kick(m);
    planner_check(m);
}
