#include "lib/manager/snapshot_users.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/manager/call.h"
#include "lib/manager/state.h"
#include "lib/manager/warm.h"
#include "lib/manager/wish.h"
#include "proto/disks.h"

struct user {
    enum snapshot_use use;
    char *name, *text;
};

struct snapshot_users {
    struct user *items;
    size_t n;
};

struct snapshot_users *snapshot_users_new(void) { return calloc(1, sizeof(struct snapshot_users)); }

void snapshot_users_free(struct snapshot_users *users)
{
    if (!users)
        return;
    for (size_t i = 0; i < users->n; i++) {
        free(users->items[i].name);
        free(users->items[i].text);
    }
    free(users->items);
    free(users);
}

int snapshot_users_add(struct snapshot_users *users, enum snapshot_use use, const char *name, const char *text)
{
    struct user user = { .use = use }, *longer = reallocarray(users->items, users->n + 1, sizeof(*longer));

    if (!longer)
        return -ENOMEM;
    users->items = longer;
    if (str_set(&user.name, name) < 0 || str_set(&user.text, text) < 0) {
        free(user.name);
        return -ENOMEM;
    }
    longer[users->n++] = user;
    return 0;
}

/* ---- shims ---- */

struct asking {
    struct snapshot_users *users;
    size_t outstanding;
    bool no_memory;
    void (*done)(void *arg, struct snapshot_users *users);
    void *arg;
};

static void add(struct asking *a, enum snapshot_use use, const char *name, const char *text)
{
    if (snapshot_users_add(a->users, use, name, text) < 0)
        a->no_memory = true;
}

static void one_less(struct asking *a)
{
    if (--a->outstanding > 0)
        return;
    if (a->no_memory) {
        snapshot_users_free(a->users);
        a->users = NULL;
    }
    a->done(a->arg, a->users);
    free(a);
}

static void on_memory(void *arg, struct vm *vm, const struct varlink_reply *r)
{
    struct asking *a = arg;
    const char *mode = json_string_value(json_object_get(r->parameters, "mode"));
    const char *snapshot = json_string_value(json_object_get(r->parameters, "snapshot"));
    bool missing =
        json_integer_value(json_object_get(r->parameters, "present")) < json_integer_value(json_object_get(r->parameters, "total"));

    if (r->failure < 0 || (r->error && !streq(r->error, "org.varlink.service.MethodNotFound")))
        add(a, USE_UNKNOWN, vm->name, NULL);
    else if (!r->error && mode && snapshot && (streq(mode, "mapped") || (missing && !streq(mode, "plain"))))
        add(a, USE_MEMORY, vm->name, snapshot);
    one_less(a);
}

static void ask(struct asking *a, struct vm *vm)
{
    const struct wanted_restore *restore = &vm->wanted.restore;
    char of[SNAPSHOT_PATH_MAX];

    if (wish_restore_is_due(vm) || (wish_restore_is_open(vm) && vm->presence == PRESENCE_SHIM)) {
        snprintf(of, sizeof(of), "%s/%s", restore->vm, restore->snapshot);
        add(a, USE_MEMORY, vm->name, of);
    } else if (vm->presence == PRESENCE_ORPHAN || (vm->presence == PRESENCE_SHIM && (!vm->answered || vm->view == VIEW_UNRESPONSIVE))) {
        add(a, USE_UNKNOWN, vm->name, NULL);
    } else if (vm->presence == PRESENCE_SHIM) {
        a->outstanding++;
        if (shim_call_consume(vm, "GetMemory", NULL, SHIM_TIMEOUT_MS, on_memory, a) < 0) {
            a->outstanding--;
            add(a, USE_UNKNOWN, vm->name, NULL);
        }
    }
}

void snapshot_users_ask(struct manager *m, void (*done)(void *arg, struct snapshot_users *users), void *arg)
{
    struct asking *a = calloc(1, sizeof(*a));
    struct snapshot_users *users = snapshot_users_new();

    if (!a || !users) {
        free(a);
        snapshot_users_free(users);
        done(arg, NULL);
        return;
    }
    *a = (struct asking){ .users = users, .outstanding = 1, .done = done, .arg = arg };
    map_foreach (m->vms, e)
        ask(a, map_value(e));
    one_less(a);
}

/* ---- the disk ---- */

/* Each VM's list of files. That of a VM that is gone counts as well: its disks may be there. */
static int read_vm_disks(struct snapshot_users *users, int state_vms_fd)
{
    int fd = openat(state_vms_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!dir) {
        r = -errno;
        fd_close(fd);
        return r;
    }
    while (r >= 0 && (errno = 0, entry = readdir(dir))) {
        auto_free char *text = NULL;
        char path[VM_PATH_MAX];
        size_t len;

        if (!name_is_valid(entry->d_name))
            continue;
        r = file_read(state_vms_fd, name_path(entry->d_name, FILE_DISKS, path), RECORD_MAX, &text, &len);
        if (r >= 0)
            r = snapshot_users_add(users, USE_DISKS, entry->d_name, text);
        else if (r == -ENOENT || r == -ENOTDIR)
            r = 0;
        else if (r != -ENOMEM)
            r = snapshot_users_add(users, USE_UNKNOWN, entry->d_name, NULL);
    }
    if (r >= 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

/* A snapshot of a VM that was restored may be on files of the one it was restored from. */
static int read_snapshots(struct snapshot_users *users, int store_fd)
{
    auto_snapshot_list struct snapshot_list list = { 0 };
    int r = snapshots_list(store_fd, NULL, &list);

    for (size_t i = 0; r >= 0 && i < list.n; i++) {
        const struct snapshot *s = &list.items[i].found;
        char name[SNAPSHOT_PATH_MAX + sizeof("snapshot ")];

        snprintf(name, sizeof(name), "snapshot %s/%s", list.items[i].vm, list.items[i].name);
        for (size_t d = 0; r >= 0 && d < s->n_disks; d++)
            for (size_t k = 0; r >= 0 && k < s->disks[d].n_layers; k++)
                r = snapshot_users_add(users, USE_DISKS, name, s->disks[d].layers[k].path);
    }
    return r;
}

int snapshot_users_read(struct snapshot_users *users, const struct manager *m)
{
    int r = read_vm_disks(users, m->state_vms_fd);

    return r < 0 ? r : read_snapshots(users, m->snapshots_fd);
}

/* ---- the answer ---- */

static bool uses(const struct user *user, const struct snapshot_info *info, const char *folder, const char *of)
{
    char own[SNAPSHOT_PATH_MAX + sizeof("snapshot ")];

    snprintf(own, sizeof(own), "snapshot %s", of);
    switch (user->use) {
    case USE_DISKS: /* the path may stand anywhere in a record: as text it is found whatever the record's shape */
        return !streq(user->name, own) && strstr(user->text, folder);
    case USE_MEMORY:
        return streq(user->text, of);
    case USE_UNKNOWN:
        return false;
    }
    return false;
}

static int append_once(json_t *names, const char *name)
{
    const json_t *had;
    size_t i;

    json_array_foreach (names, i, had) {
        if (streq(json_string_value(had), name))
            return 0;
    }
    return json_array_append_new(names, json_text(name)) < 0 ? -ENOMEM : 0;
}

int snapshot_users_of(const struct snapshot_users *users, const struct manager *m, const struct snapshot_info *info, json_t **ret_names,
                      const char **ret_silent)
{
    auto_json json_t *names = json_array();
    auto_free char *folder = NULL;
    char of[SNAPSHOT_PATH_MAX];
    const char *silent = NULL;
    int r;

    if (!names || str_format(&folder, "%s/" FOLDER_SNAPSHOTS "/%s/%s/", m->dirs.state, info->vm, info->name) < 0)
        return -ENOMEM;
    snprintf(of, sizeof(of), "%s/%s", info->vm, info->name);
    for (size_t i = 0; i < users->n; i++) {
        if (users->items[i].use == USE_UNKNOWN && !silent)
            silent = users->items[i].name;
        r = uses(&users->items[i], info, folder, of) ? append_once(names, users->items[i].name) : 0;
        if (r < 0)
            return r;
    }
    if (info->found.id && warm_is_running(m, info->found.id) && append_once(names, "its own warming") < 0)
        return -ENOMEM;
    *ret_names = steal_ptr(&names);
    *ret_silent = silent;
    return 0;
}
