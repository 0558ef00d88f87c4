/* Would a restart of the manager keep the VMs? By where their processes live: setsid and a double fork leave no cgroup, so what a service manager
 * does to the manager's unit it does to every VM that is still in there. */
#include <pwd.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/output.h"
#include "proto/launch.h"

enum place_kind {
    PLACE_OWN_SCOPE, /* holdfast-vm-NAME.scope */
    PLACE_SERVICE,   /* in a service's cgroup or in one below it */
    PLACE_SESSION,   /* in somebody's login */
    PLACE_SCOPE,     /* in another scope */
    PLACE_NO_UNIT,
    PLACE_UNKNOWN, /* the cgroup can't be read */
};

struct place {
    enum place_kind kind;
    char *unit; /* NULL where there is none */
};

/* VMs that live in the same kind of place, told in one line. */
struct group {
    struct place place;
    char *names;
    size_t n;
};

enum { NAMES_SHOWN = 5 };

static bool has_suffix(const char *s, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len > n && memcmp(s + len - n, suffix, n) == 0;
}

static enum place_kind kind_of_unit(const char *name, size_t len)
{
    if (has_suffix(name, len, ".service"))
        return PLACE_SERVICE;
    if (!has_suffix(name, len, ".scope"))
        return PLACE_NO_UNIT;
    return has_prefix(name, CGROUP_PREFIX) ? PLACE_OWN_SCOPE : has_prefix(name, "session-") ? PLACE_SESSION : PLACE_SCOPE;
}

/* The innermost unit of a cgroup: the last part of its path that is a service or a scope. What is below belongs to it. */
static struct place place_of(const char *cgroup)
{
    struct place place = { .kind = cgroup ? PLACE_NO_UNIT : PLACE_UNKNOWN };

    for (const char *at = cgroup; at && *at;) {
        at += *at == '/';
        size_t len = strcspn(at, "/");
        enum place_kind kind = kind_of_unit(at, len);

        if (kind != PLACE_NO_UNIT) {
            free(place.unit);
            place = (struct place){ .kind = kind, .unit = must(strndup(at, len)) };
        }
        at += len;
    }
    /* A scope that another tool made is told by kind, not by name: one line for all. */
    if (place.kind == PLACE_OWN_SCOPE) {
        free(place.unit);
        place.unit = NULL;
    }
    return place;
}

/* Worst first: what decides for a VM whose processes live in different places. */
static unsigned danger(struct doctor *d, const struct place *place)
{
    switch (place->kind) {
    case PLACE_SERVICE:
        return doctor_unit_spares_children(d, place->unit) > 0 ? 3 : 6;
    case PLACE_UNKNOWN:
        return 5;
    case PLACE_SESSION:
        return 4;
    case PLACE_SCOPE:
        return 2;
    case PLACE_NO_UNIT:
        return 1;
    case PLACE_OWN_SCOPE:
        return 0;
    }
    return 0;
}

static struct place worse_place(struct doctor *d, const struct doctor_vm *vm)
{
    struct place shim = place_of(vm->shim_cgroup), qemu = place_of(vm->qemu_cgroup);
    bool shim_counts = vm->shim_lives && (!vm->qemu_lives || danger(d, &shim) >= danger(d, &qemu));

    free(shim_counts ? qemu.unit : shim.unit);
    return shim_counts ? shim : qemu;
}

static void group_add(struct group *g, const char *name)
{
    char *longer = NULL;

    g->n++;
    if (g->n > NAMES_SHOWN)
        return;
    if (str_format(&longer, "%s%s%s", g->names ? g->names : "", g->names ? ", " : "", name) < 0)
        must(NULL);
    free(g->names);
    g->names = longer;
}

static struct group *group_find(struct group *groups, size_t n, const struct place *place)
{
    for (size_t i = 0; i < n; i++)
        if (groups[i].place.kind == place->kind && streq_opt(groups[i].place.unit, place->unit))
            return &groups[i];
    return NULL;
}

static void tell_service(struct doctor *d, const char *names, const char *unit)
{
    const char *mode = doctor_property(d, unit, "KillMode");
    auto_free char *remedy = NULL;

    if (str_format(&remedy, "systemctl edit %s, write [Service] KillMode=process, then systemctl daemon-reload, which ends nothing", unit) <
        0)
        must(NULL);
    switch (doctor_unit_spares_children(d, unit)) {
    case 1:
        doctor_find(d, VERDICT_NOTE, "VMs get scopes of their own when they are started, where the manager may make some",
                    "%s: in %s, which has KillMode=%s: a restart keeps them; systemctl kill wouldn't", names, unit, mode);
        return;
    case 0:
        d->restart_kills = true;
        doctor_find(d, VERDICT_PROBLEM, remedy, "%s: in %s, which has KillMode=%s: a restart kills them", names, unit, mode);
        return;
    default:
        d->restart_unclear = true;
        doctor_find(d, VERDICT_WARNING, "see what KillMode is in: systemctl cat", "%s: in %s, whose settings can't be had", names, unit);
    }
}

static void tell_group(struct doctor *d, const struct group *g)
{
    auto_free char *names = NULL;

    if (g->n > NAMES_SHOWN ? str_format(&names, "%s and %zu more", g->names, g->n - NAMES_SHOWN) < 0 : str_set(&names, g->names) < 0)
        must(NULL);
    switch (g->place.kind) {
    case PLACE_OWN_SCOPE:
        doctor_find(d, VERDICT_OK, NULL, "%s: in a scope of their own, which nothing done to the manager's unit reaches", names);
        break;
    case PLACE_SERVICE:
        tell_service(d, names, g->place.unit);
        break;
    case PLACE_SESSION:
        doctor_find(d, VERDICT_WARNING, "run the manager as a service; until then keep KillUserProcesses=no in logind.conf",
                    "%s: in the login %s: a restart keeps them, but they may end when that user logs out", names, g->place.unit);
        break;
    case PLACE_SCOPE:
        doctor_find(d, VERDICT_NOTE, NULL, "%s: in %s, which isn't the manager's: a restart keeps them", names, g->place.unit);
        break;
    case PLACE_NO_UNIT:
        doctor_find(d, VERDICT_OK, NULL, "%s: in no unit of a service manager: a restart of the manager keeps them", names);
        break;
    case PLACE_UNKNOWN:
        d->restart_unclear = true;
        doctor_find(d, VERDICT_WARNING, "run this as root, or as the user the manager runs as", "%s: their cgroup can't be read", names);
        break;
    }
}

/* Folders whose record can't be read. */
static size_t tell_unreadable(struct doctor *d)
{
    struct group unreadable = { 0 };
    size_t n;

    for (size_t i = 0; i < d->n_vms; i++)
        if (!d->vms[i].readable)
            group_add(&unreadable, d->vms[i].name);
    n = unreadable.n;
    if (n) {
        d->restart_unclear = true;
        doctor_find(d, VERDICT_WARNING, "run this as root; vmctl shim list tells what their shims say",
                    "%s%s: what runs there can't be told, the status record isn't readable", unreadable.names,
                    n > NAMES_SHOWN ? " and more" : "");
    }
    free(unreadable.names);
    return n;
}

void doctor_check_restart(struct doctor *d)
{
    struct group *groups = must(calloc(d->n_vms + 1, sizeof(*groups)));
    size_t n = 0, unreadable = tell_unreadable(d);

    for (size_t i = 0; i < d->n_vms; i++) {
        const struct doctor_vm *vm = &d->vms[i];

        if (!vm->shim_lives && !vm->qemu_lives)
            continue;
        struct place place = worse_place(d, vm);
        struct group *g = group_find(groups, n, &place);
        if (g) {
            free(place.unit);
        } else {
            g = &groups[n++];
            g->place = place;
        }
        group_add(g, vm->name);
    }
    for (size_t i = 0; i < n; i++) {
        tell_group(d, &groups[i]);
        free(groups[i].place.unit);
        free(groups[i].names);
    }
    if (!n && !unreadable)
        doctor_find(d, VERDICT_NOTE, NULL, "no VM runs: a restart has nothing to lose");
    free(groups);
}

/* The name in /etc/passwd below the root; of this host also what other sources know. */
static char *user_name(const struct doctor *d, uint64_t uid)
{
    auto_free char *path = doctor_path(d, "/etc/passwd");
    char buf[4096], *name = NULL;
    struct passwd pw = { 0 }, *found = NULL;

    if (!*d->root)
        return getpwuid_r((uid_t)uid, &pw, buf, sizeof(buf), &found) == 0 && found ? must(strdup(found->pw_name)) : NULL;
    FILE *f = fopen(path, "re");
    while (f && !name && fgetpwent_r(f, &pw, buf, sizeof(buf), &found) == 0)
        if (found->pw_uid == uid)
            name = must(strdup(found->pw_name));
    if (f)
        (void)fclose(f);
    return name;
}

void doctor_check_linger(struct doctor *d)
{
    auto_free char *name = NULL, *path = NULL, *remedy = NULL;
    uint64_t uid = 0;
    bool found = false;

    for (size_t i = 0; i < d->n_vms && !found; i++)
        found = doctor_user_of(d->vms[i].shim_cgroup, &uid) || doctor_user_of(d->vms[i].qemu_cgroup, &uid);
    if (!found)
        return;
    name = user_name(d, uid);
    if (!name) {
        doctor_find(d, VERDICT_WARNING, NULL,
                    "VMs are units of user %" PRIu64 ", who has no name: whether they outlive his login isn't known", uid);
        return;
    }
    if (str_format(&path, "/var/lib/systemd/linger/%s", name) < 0 || str_format(&remedy, "loginctl enable-linger %s", name) < 0)
        must(NULL);
    if (doctor_exists(d, path))
        doctor_find(d, VERDICT_OK, NULL, "%s lingers: VMs live on when %s logs out", name, name);
    else
        doctor_find(d, VERDICT_PROBLEM, remedy, "%s doesn't linger: VMs end when %s logs out for the last time", name, name);
}
