#include "cmd/vmctl/vm_view.h"

#include "cmd/vmctl/output.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/vm_memory.h"
#include "lib/base/util.h"
#include "proto/exit.h"
#include "proto/states.h"

enum { COLUMN_NAME, COLUMN_WANTED, COLUMN_STATE, COLUMN_HEALTH, COLUMN_UPTIME, COLUMN_RESTARTS, COLUMN_PID, COLUMN_NOTE, COLUMN_COUNT };

static const struct table_column columns[] = {
    [COLUMN_NAME] = { .title = "NAME" },
    [COLUMN_WANTED] = { .title = "WANTED", .rank = 4 },
    [COLUMN_STATE] = { .title = "STATE" },
    [COLUMN_HEALTH] = { .title = "HEALTH", .rank = 3 },
    [COLUMN_UPTIME] = { .title = "UPTIME", .rank = 1, .right = true },
    [COLUMN_RESTARTS] = { .title = "RESTARTS", .rank = 6, .right = true },
    [COLUMN_PID] = { .title = "PID", .rank = 5, .right = true },
    [COLUMN_NOTE] = { .title = "LAST EXIT / REASON", .rank = 2, .cut = true },
};
_Static_assert((int)COLUMN_COUNT <= (int)TABLE_COLUMNS_MAX, "table too wide");

const char *vm_view_state_color(const char *state)
{
    static const char *const colors[VIEW_COUNT] = {
        [STATE_PREPARING] = "cyan", [STATE_LAUNCHING] = "cyan", [STATE_RESTORING] = "cyan",  [STATE_RUNNING] = "green",
        [STATE_PAUSED] = "yellow",  [STATE_STOPPING] = "cyan",  [STATE_BACKOFF] = "yellow",  [STATE_FAILED] = "red",
        [VIEW_UNKNOWN] = "red",     [VIEW_ORPHANED] = "yellow", [VIEW_UNRESPONSIVE] = "red",
    };
    int view = enum_from_string(&vm_view_names, state);

    return view >= 0 ? colors[view] : NULL;
}

const char *vm_view_health_color(const char *health)
{
    return streq(health, "healthy") ? "green" : streq(health, "unhealthy") ? "red" : streq(health, "starting") ? "cyan" : NULL;
}

char *vm_view_exit(const json_t *exit)
{
    auto_exit struct exit_record record = { 0 };

    if (!json_is_object(exit) || exit_from_wire(exit, &record) < 0)
        return must(strdup(""));
    return must(exit_describe(&record));
}

void vm_view_complete(json_t *vm)
{
    static const char *const keys[] = { "shim_pid", "qemu_pid", "last_exit", "reason" };

    for (size_t i = 0; json_is_object(vm) && i < ARRAY_LEN(keys); i++)
        if (!json_object_get(vm, keys[i]))
            json_object_set_new(vm, keys[i], json_null());
}

/* Why it is as it is, else how it ended last. */
static char *note_of(const json_t *vm)
{
    const char *reason = member_text(vm, "reason");
    bool changed = json_is_true(json_object_get(vm, "changed")), enabled = !json_is_false(json_object_get(vm, "enabled"));
    auto_free char *exit = *reason ? must(strdup(reason)) : vm_view_exit(json_object_get(vm, "last_exit"));
    const char *mark = changed ? "spec changed, restart to apply" : enabled ? "" : "disabled";
    char *note = NULL;

    if (str_format(&note, "%s%s%s", mark, *mark && *exit ? "; " : "", exit) < 0)
        must(NULL);
    return note;
}

static void add_vm(struct table *t, const json_t *vm)
{
    const char *state = member_text(vm, "state"), *health = member_text(vm, "health");
    char uptime[ELAPSED_MAX];
    auto_free char *note = note_of(vm);

    table_add_row(t);
    table_set(t, COLUMN_NAME, member_text(vm, "name"), NULL);
    table_set(t, COLUMN_WANTED, member_text(vm, "wanted"), NULL);
    table_set(t, COLUMN_STATE, state, vm_view_state_color(state));
    table_set(t, COLUMN_HEALTH, streq(health, "none") ? "-" : health, vm_view_health_color(health));
    bool alive = member_int(vm, "qemu_pid") > 0;
    table_set(t, COLUMN_UPTIME, alive ? text_uptime((uint64_t)member_int(vm, "uptime_ms"), uptime) : "-", NULL);
    table_set_int(t, COLUMN_RESTARTS, member_int(vm, "restarts"));
    if (alive)
        table_set_int(t, COLUMN_PID, member_int(vm, "qemu_pid"));
    else
        table_set(t, COLUMN_PID, "-", NULL);
    table_set(t, COLUMN_NOTE, note, NULL);
}

enum outcome vm_view_list(const struct invocation *in, const json_t *vms)
{
    auto_table struct table t;
    size_t i;
    json_t *vm;

    table_init(&t, columns, COLUMN_COUNT);
    json_array_foreach (vms, i, vm) {
        if (in->quiet)
            puts(member_text(vm, "name"));
        else
            add_vm(&t, vm);
    }
    if (!json_array_size(vms))
        say(in, "no VMs (make one: vmctl apply FILE)");
    return in->quiet || !t.n_rows ? OUTCOME_DONE : table_print(&t, in);
}

void vm_view_line(const char *label, const char *value)
{
    auto_free char *clean = text_one_line(value);

    if (*clean)
        printf("  %-12s %s\n", label, clean);
}

static void line_pid(const char *label, const json_t *vm, const char *key)
{
    char text[32] = "-";

    if (member_int(vm, key) > 0)
        snprintf(text, sizeof(text), "pid %lld", (long long)member_int(vm, key));
    vm_view_line(label, text);
}

static void line_int(const char *label, json_int_t value)
{
    char text[24];

    snprintf(text, sizeof(text), "%lld", (long long)value);
    vm_view_line(label, text);
}

static void line_last_exit(const json_t *vm)
{
    const json_t *exit = json_object_get(vm, "last_exit");
    auto_free char *words = vm_view_exit(exit), *line = NULL;
    const char *detail = member_text(exit, "detail");

    if (!*words)
        return;
    if (str_format(&line, "%s, at %s (incarnation %lld)%s%s", words, member_text(exit, "at"), (long long)member_int(exit, "incarnation"),
                   *detail && !strstr(words, detail) ? ": " : "", *detail && !strstr(words, detail) ? detail : "") < 0)
        must(NULL);
    vm_view_line("last exit", line);
}

static void lines_allocated(const json_t *allocated)
{
    json_int_t cid = member_int(allocated, "cid");
    size_t i;
    json_t *one;

    json_array_foreach (json_object_get(allocated, "macs"), i, one)
        vm_view_line("mac", json_string_value(one));
    json_array_foreach (json_object_get(allocated, "forwards"), i, one) {
        auto_free char *line = NULL;

        if (str_format(&line, "%s/%s to port %lld of the guest", member_text(one, "host"), member_text(one, "proto"),
                       (long long)member_int(one, "guest")) < 0)
            must(NULL);
        vm_view_line("forward", line);
    }
    if (cid > 0)
        line_int("vsock cid", cid);
}

void vm_view_detail(const struct invocation *in, const json_t *vm, const json_t *paths)
{
    static const char *const path_labels[] = { "spec", "log", "state", "run" };
    const char *state = member_text(vm, "state"), *health = member_text(vm, "health"), *reason = member_text(vm, "reason");
    const char *color = color_wanted(in, STDOUT_FILENO) ? vm_view_state_color(state) : NULL;
    const char *begin = !color                  ? ""
                        : streq(color, "green") ? "\033[32m"
                        : streq(color, "red")   ? "\033[31m"
                        : streq(color, "cyan")  ? "\033[36m"
                                                : "\033[33m";
    auto_free char *memory = vm_memory_words(vm);
    char uptime[ELAPSED_MAX];
    bool alive = member_int(vm, "qemu_pid") > 0;

    printf("%s: %s%s%s%s%s%s%s\n", member_text(vm, "name"), begin, state, color ? "\033[0m" : "", alive ? " for " : "",
           alive ? text_elapsed((uint64_t)member_int(vm, "uptime_ms"), uptime) : "", streq(health, "none") || !*health ? "" : ", ",
           streq(health, "none") ? "" : health);
    vm_view_line("reason", reason);
    vm_view_line("wanted", member_text(vm, "wanted"));
    vm_view_line("enabled", json_is_false(json_object_get(vm, "enabled")) ? "no (not started with the manager)" : "yes");
    if (json_is_true(json_object_get(vm, "changed")))
        vm_view_line("changed", "yes: a restart would use a newer spec");
    line_int("incarnation", member_int(vm, "incarnation"));
    line_int("restarts", member_int(vm, "restarts"));
    line_pid("qemu", vm, "qemu_pid");
    line_pid("shim", vm, "shim_pid");
    vm_view_line("memory", memory);
    lines_allocated(json_object_get(vm, "allocated"));
    line_last_exit(vm);
    for (size_t i = 0; i < ARRAY_LEN(path_labels); i++)
        vm_view_line(path_labels[i], member_text(paths, path_labels[i]));
}
