#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

enum { COLUMN_NAME, COLUMN_HEALTH, COLUMN_PROBE, COLUMN_RESULT, COLUMN_FAILURES, COLUMN_ACTION, COLUMN_AT, COLUMN_WHY, COLUMN_COUNT };

static const struct table_column columns[] = {
    [COLUMN_NAME] = { .title = "NAME" },
    [COLUMN_HEALTH] = { .title = "HEALTH" },
    [COLUMN_PROBE] = { .title = "PROBE" },
    [COLUMN_RESULT] = { .title = "RESULT" },
    [COLUMN_FAILURES] = { .title = "FAILURES", .rank = 2, .right = true },
    [COLUMN_ACTION] = { .title = "ACTION", .rank = 4 },
    [COLUMN_AT] = { .title = "AT", .rank = 3 },
    [COLUMN_WHY] = { .title = "WHY", .rank = 1, .cut = true },
};
_Static_assert((int)COLUMN_COUNT <= (int)TABLE_COLUMNS_MAX, "table too wide");

static void add_probe(struct table *t, const char *name, const char *health, const json_t *probe)
{
    const char *at = member_text(probe, "at");
    bool well = json_is_true(json_object_get(probe, "well"));

    table_add_row(t);
    table_set(t, COLUMN_NAME, name, NULL);
    table_set(t, COLUMN_HEALTH, health, vm_view_health_color(health));
    table_set(t, COLUMN_PROBE, probe ? member_text(probe, "type") : "-", NULL);
    table_set(t, COLUMN_RESULT, !*at ? "-" : well ? "well" : "failed", !*at ? NULL : well ? "green" : "red");
    if (!probe)
        return;
    table_set_int(t, COLUMN_FAILURES, member_int(probe, "failures"));
    table_set(t, COLUMN_ACTION, member_text(probe, "action"), NULL);
    table_set(t, COLUMN_AT, *at ? at : "-", NULL);
    table_set(t, COLUMN_WHY, member_text(probe, "why"), NULL);
}

/* One VM's answer into the table, or into `ret_all` for JSON. */
static enum outcome ask(const struct invocation *in, const char *name, struct table *t, json_t *ret_all)
{
    auto_varlink_client struct varlink_client *client = NULL;
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;
    const json_t *probe;
    size_t i;
    int r;

    enum outcome outcome = shim_connect(in, name, &client);
    if (outcome != OUTCOME_DONE)
        return outcome;
    r = varlink_client_call_consume(client, SHIM_INTERFACE ".GetHealth", NULL, SHIM_TIMEOUT_MS, &reply, &err);
    if (r < 0)
        return shim_complain(name, client, r, reply, &err);
    if (in->json) {
        json_object_set_new(reply, "name", must_json(json_string(name)));
        json_array_append(ret_all, reply);
        return OUTCOME_DONE;
    }
    json_array_foreach (json_object_get(reply, "probes"), i, probe)
        add_probe(t, name, member_text(reply, "health"), probe);
    if (i == 0)
        add_probe(t, name, member_text(reply, "health"), NULL);
    return OUTCOME_DONE;
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *all = must_json(json_array()), *survey = NULL;
    auto_table struct table t;
    enum outcome outcome = OUTCOME_DONE;
    size_t i;
    json_t *shim;

    table_init(&t, columns, COLUMN_COUNT);
    if (in->all == (in->n_args > 0))
        return complain_usage(in->verb, "%s", in->all ? "name VMs or say --all, not both" : "which VM? Name some, or say --all");
    if (in->all) {
        outcome = shim_survey_all(in, &survey);
        json_array_foreach (survey, i, shim)
            if (json_is_object(json_object_get(shim, "status")))
                outcome = outcome_merge(outcome, ask(in, member_text(shim, "name"), &t, all));
    }
    for (i = 0; i < in->n_args; i++) {
        enum outcome named = name_check(in, in->args[i]);
        outcome = outcome_merge(outcome, named == OUTCOME_DONE ? ask(in, in->args[i], &t, all) : named);
    }
    if (in->json)
        put_json(all);
    else if (t.n_rows)
        outcome = outcome_merge(outcome, table_print(&t, in));
    return outcome;
}

static const struct flag flags[] = {
    { "all", 'a', FLAG_SET, NULL, "every VM that has a shim", offsetof(struct invocation, all), NULL },
    FLAGS_END,
};

const struct verb verb_health = {
    .name = "health",
    .args = "NAME...",
    .group = "look",
    .summary = "show the health probes of VMs and how each fared last",
    .details = "Asks the shims themselves, so it works with no manager too.",
    .example = "vmctl health web",
    .flags = flags,
    .takes = TAKES_VMS,
    .max_args = ARGS_ANY,
    .run = run,
};
