/* What the service manager says of the manager's unit, and what of it would hurt: systemd.kill(5), systemd.exec(5), systemd.service(5). */
#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/output.h"

#define SYSTEMCTL "/usr/bin/systemctl /bin/systemctl"
#define DRAIN_UNIT "holdfast-drain.service"

/* All that the checks ask for, in one call a unit. */
static const char properties[] =
    "LoadState,ActiveState,KillMode,RuntimeDirectory,RuntimeDirectoryPreserve,OOMPolicy,TasksMax,LimitNOFILE,LimitNOFILESoft,"
    "LimitMEMLOCK";

/* "KEY=VALUE" lines. */
static json_t *parse_properties(const char *text)
{
    json_t *all = must_json(json_object());

    for (;;) {
        auto_free char *line = doctor_word(&text, "\n");
        char *equals = line ? strchr(line, '=') : NULL;

        if (!line)
            return all;
        if (!equals)
            continue;
        *equals = '\0';
        utf8_clean(line);
        utf8_clean(equals + 1);
        json_object_set_new(all, line, must_json(json_string(equals + 1)));
    }
}

char *doctor_systemctl_scope(const struct doctor *d)
{
    char *words = NULL;
    int r = d->user < 0                     ? str_set(&words, "--system")
            : d->user == (int64_t)geteuid() ? str_set(&words, "--user")
                                            : str_format(&words, "--user --machine=%" PRId64 "@.host", d->user);

    return r < 0 ? must(NULL) : words;
}

static const json_t *unit_properties(struct doctor *d, const char *unit)
{
    json_t *known = json_object_get(d->units, unit);
    const char *const show[] = { "show", "--property", properties, "--", unit, NULL };
    auto_strv struct strv words = { 0 };
    auto_free char *text = NULL, *scope = NULL;
    bool found;

    if (known)
        return known;
    scope = doctor_systemctl_scope(d);
    for (const char *at = scope;;) {
        auto_free char *word = doctor_word(&at, " ");

        if (!word)
            break;
        strv_push(&words, word);
    }
    for (size_t i = 0; show[i]; i++)
        strv_push(&words, show[i]);
    if (words.failed)
        must(NULL);
    text = d->systemd ? doctor_output(d, SYSTEMCTL, (const char *const *)words.items, &found) : NULL;
    known = text ? parse_properties(text) : must_json(json_object());
    json_object_set_new(d->units, unit, known);
    return known;
}

const char *doctor_property(struct doctor *d, const char *unit, const char *property)
{
    return member_text(unit_properties(d, unit), property);
}

bool doctor_unit_is_loaded(struct doctor *d, const char *unit) { return streq(doctor_property(d, unit, "LoadState"), "loaded"); }

int doctor_unit_spares_children(struct doctor *d, const char *unit)
{
    const char *mode = doctor_property(d, unit, "KillMode");

    return !doctor_unit_is_loaded(d, unit) || !*mode ? -1 : streq(mode, "process") || streq(mode, "none");
}

static void check_kill_mode(struct doctor *d, const char *unit)
{
    const char *mode = doctor_property(d, unit, "KillMode");
    auto_free char *remedy = NULL;

    if (doctor_unit_spares_children(d, unit) > 0) {
        doctor_find(d, VERDICT_OK, NULL, "%s has KillMode=%s: a restart ends the manager alone", unit, mode);
        return;
    }
    if (str_format(&remedy, "systemctl edit %s, write [Service] KillMode=process, then systemctl daemon-reload, which ends nothing", unit) <
        0)
        must(NULL);
    /* What is in danger by it is told by the check "restart". */
    doctor_find(d, VERDICT_WARNING, remedy, "%s has KillMode=%s: a restart ends whatever is in its cgroup", unit, mode);
}

/* Whether `path` has the folder `name`, which may be several levels deep, among its parts. */
static bool path_has(const char *path, const char *name)
{
    size_t len = strlen(name);

    for (const char *at = strstr(path, name); at; at = strstr(at + 1, name))
        if (at > path && at[-1] == '/' && (!at[len] || at[len] == '/'))
            return true;
    return false;
}

/* Whether RUN is in a folder that systemd makes for the unit: names of RuntimeDirectory=, below /run or the user's. */
static bool owns_run_folder(const struct doctor *d, const char *names)
{
    for (;;) {
        auto_free char *name = doctor_word(&names, " ");

        if (!name || path_has(d->in->dirs.run, name))
            return name != NULL;
    }
}

static void check_runtime_directory(struct doctor *d, const char *unit)
{
    static const char remedy[] = "write RuntimeDirectoryPreserve=yes beside RuntimeDirectory= in the unit, then systemctl daemon-reload";
    const char *names = doctor_property(d, unit, "RuntimeDirectory"), *preserve = doctor_property(d, unit, "RuntimeDirectoryPreserve");

    if (!*names || !owns_run_folder(d, names))
        return;
    if (streq(preserve, "yes")) {
        doctor_find(d, VERDICT_OK, NULL, "%s keeps %s when it stops (RuntimeDirectoryPreserve=yes)", unit, d->in->dirs.run);
        return;
    }
    if (streq(preserve, "restart")) {
        doctor_find(d, VERDICT_WARNING, remedy,
                    "%s keeps %s over a restart, but deletes it when it is stopped, with the VMs' sockets and locks", unit,
                    d->in->dirs.run);
        return;
    }
    d->restart_kills = true;
    doctor_find(d, VERDICT_PROBLEM, remedy,
                "%s deletes %s when it stops, with the VMs' sockets and locks: they run on and aren't found again", unit, d->in->dirs.run);
}

static void check_oom_policy(struct doctor *d, const char *unit)
{
    const char *policy = doctor_property(d, unit, "OOMPolicy");

    if (*policy && !streq(policy, "continue"))
        doctor_find(d, VERDICT_WARNING, "write OOMPolicy=continue in the unit, then systemctl daemon-reload",
                    "%s has OOMPolicy=%s: one process in it that the kernel kills for memory stops the manager", unit, policy);
}

void doctor_check_unit(struct doctor *d)
{
    const char *unit = d->manager_unit;

    if (!d->systemd) {
        doctor_find(d, VERDICT_NOTE, NULL,
                    "systemd doesn't run this host: whatever restarts the manager must signal that process alone, not its group or cgroup");
        return;
    }
    if (streq(doctor_property(d, unit, "LoadState"), "")) {
        d->restart_unclear = true;
        doctor_find(d, VERDICT_WARNING, "see whether this fails: systemctl show", "systemctl doesn't tell the settings of %s", unit);
        return;
    }
    if (!doctor_unit_is_loaded(d, unit)) {
        doctor_find(d, VERDICT_NOTE, "install the package holdfast, or name the manager's unit with --unit",
                    "there is no %s: the manager is started by other means", unit);
        return;
    }
    check_kill_mode(d, unit);
    check_runtime_directory(d, unit);
    check_oom_policy(d, unit);
}

void doctor_check_drain(struct doctor *d)
{
    if (!d->systemd || !doctor_unit_is_loaded(d, d->manager_unit))
        return;
    if (streq(doctor_property(d, DRAIN_UNIT, "ActiveState"), "active"))
        doctor_find(d, VERDICT_OK, NULL, DRAIN_UNIT " shuts guests down in order when the host does");
    else
        doctor_find(d, VERDICT_NOTE, "systemctl enable --now " DRAIN_UNIT,
                    DRAIN_UNIT " isn't active: when the host shuts down, guests end with the processes that run them");
}
