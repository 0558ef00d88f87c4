#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

enum { COLUMN_NAME, COLUMN_STATE, COLUMN_HEALTH, COLUMN_UPTIME, COLUMN_SHIM, COLUMN_QEMU, COLUMN_VERSION, COLUMN_NOTE, COLUMN_COUNT };

static const struct table_column columns[] = {
    [COLUMN_NAME] = { .title = "NAME" },
    [COLUMN_STATE] = { .title = "STATE" },
    [COLUMN_HEALTH] = { .title = "HEALTH", .rank = 4 },
    [COLUMN_UPTIME] = { .title = "UPTIME", .rank = 3, .right = true },
    [COLUMN_SHIM] = { .title = "SHIM", .rank = 1, .right = true },
    [COLUMN_QEMU] = { .title = "QEMU", .rank = 2, .right = true },
    [COLUMN_VERSION] = { .title = "VERSION", .rank = 6 },
    [COLUMN_NOTE] = { .title = "REASON", .rank = 5, .cut = true },
};
_Static_assert((int)COLUMN_COUNT <= (int)TABLE_COLUMNS_MAX, "table too wide");

static void set_pid(struct table *t, size_t column, const json_t *process)
{
    if (member_int(process, "pid") > 0)
        table_set_int(t, column, member_int(process, "pid"));
    else
        table_set(t, column, "-", NULL);
}

static void add_shim(struct table *t, const json_t *shim)
{
    const json_t *status = json_object_get(shim, "status");
    const char *state = member_text(shim, "state"), *health = member_text(status, "health"), *reason = member_text(shim, "reason");
    char uptime[ELAPSED_MAX];

    table_add_row(t);
    table_set(t, COLUMN_NAME, member_text(shim, "name"), NULL);
    table_set(t, COLUMN_STATE, state, vm_view_state_color(state));
    table_set(t, COLUMN_HEALTH, !*health || streq(health, "none") ? "-" : health, vm_view_health_color(health));
    bool alive = json_is_object(json_object_get(status, "qemu"));
    table_set(t, COLUMN_UPTIME, alive ? text_uptime((uint64_t)member_int(status, "uptime_ms"), uptime) : "-", NULL);
    set_pid(t, COLUMN_SHIM, json_object_get(status, "shim"));
    set_pid(t, COLUMN_QEMU, json_object_get(status, "qemu"));
    table_set(t, COLUMN_VERSION, status && *member_text(status, "version") ? member_text(status, "version") : "-", NULL);
    table_set(t, COLUMN_NOTE, *reason ? reason : member_text(status, "detail"), NULL);
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *survey = NULL;
    auto_table struct table t;
    size_t i;
    json_t *shim;

    table_init(&t, columns, COLUMN_COUNT);
    enum outcome outcome = shim_survey_all(in, &survey);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->json) {
        put_json(survey);
        return OUTCOME_DONE;
    }
    json_array_foreach (survey, i, shim) {
        if (in->quiet)
            put_line(member_text(shim, "name"));
        else
            add_shim(&t, shim);
    }
    if (!t.n_rows)
        say(in, "no shims");
    return t.n_rows ? table_print(&t, in) : OUTCOME_DONE;
}

const struct verb verb_shim_list = {
    .name = "shim list",
    .args = "",
    .group = "shim",
    .summary = "ask every shim for its VM, manager or not",
    .details = "A shim that doesn't answer in a second is shown by what its locks say: unresponsive, orphaned, or stopped.",
    .example = "vmctl shim list",
    .takes = TAKES_NOTHING,
    .run = run,
};
