#include "cmd/vmctl/diff.h"

#include <errno.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/spec_file.h"
#include "cmd/vmctl/table.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/json.h"

/* The manager plans as for a start, and may have to ask a QEMU what it can do. */
enum { DIFF_TIMEOUT_MS = 30 * 1000 };

struct diff {
    const struct invocation *in;
    struct varlink_client *client;
    struct table table;
    json_t *results;
    enum outcome outcome;
    bool away; /* nobody to ask: the rest needn't be tried */
};

static const struct table_column columns[] = {
    { .title = "VM" }, { .title = "WHAT" }, { .title = "NOW", .cut = true }, { .title = "THEN", .cut = true }, { .title = "HOW" },
};
enum column { COLUMN_VM, COLUMN_WHAT, COLUMN_NOW, COLUMN_THEN, COLUMN_HOW };

/* By the effect's name. A newer manager's is shown as it is. */
static const struct {
    const char *effect, *words;
} effects[] = {
    { "none", "nothing would change" },
    { "live", "would change while it runs" },
    { "restart", "would change by a restart: until then it goes on as it is" },
    { "start", "doesn't run: would be used when it is started" },
    { "create", "would be created" },
};

static const char *effect_words(const char *effect)
{
    for (size_t i = 0; i < ARRAY_LEN(effects); i++)
        if (streq(effects[i].effect, effect))
            return effects[i].words;
    return effect;
}

/* ---- what there is to say ---- */

static void set_text(struct table *t, enum column column, const char *text)
{
    auto_free char *line = text_one_line(*text ? text : "-");

    table_set(t, column, line, NULL);
}

static void add_rows(struct diff *d, const char *name, const json_t *reply)
{
    bool runs = streq(member_text(reply, "effect"), "live") || streq(member_text(reply, "effect"), "restart");
    const json_t *one;
    size_t i;

    json_array_foreach (json_object_get(reply, "differences"), i, one) {
        bool live = json_is_true(json_object_get(one, "live"));

        table_add_row(&d->table);
        table_set(&d->table, COLUMN_VM, name, NULL);
        set_text(&d->table, COLUMN_WHAT, member_text(one, "what"));
        set_text(&d->table, COLUMN_NOW, member_text(one, "old"));
        set_text(&d->table, COLUMN_THEN, member_text(one, "new"));
        table_set(&d->table, COLUMN_HOW, !runs ? "start" : live ? "live" : "restart", !runs ? NULL : live ? "green" : "yellow");
    }
}

static void say_why(const struct diff *d, const char *name, const json_t *reply)
{
    const json_t *one;
    size_t i;

    json_array_foreach (json_object_get(reply, "differences"), i, one)
        if (*member_text(one, "why"))
            say(d->in, "%s: %s: %s", name, member_text(one, "what"), member_text(one, "why"));
}

static void add_result(struct diff *d, const char *name, const char *file, const json_t *reply)
{
    const char *change = member_text(reply, "change");

    if (d->in->json) {
        json_t *result = must_json(json_deep_copy(reply));

        json_object_set_new(result, "name", must_json(json_string(name)));
        if (file)
            json_object_set_new(result, "file", must_json(json_string(file)));
        json_array_append_new(d->results, result);
        return;
    }
    say(d->in, "%s: %s%s%s", name, streq(change, "created") ? "" : change, *change && !streq(change, "created") ? ", " : "",
        effect_words(member_text(reply, "effect")));
    say_why(d, name, reply);
    add_rows(d, name, reply);
}

static void add_failure(struct diff *d, const char *name, const struct spec_file *f, const char *error)
{
    if (d->in->json)
        json_array_append_new(d->results, must_json(json_pack("{s:s?, s:s*, s:s, s:O*}", "name", name, "file", f ? f->shown : NULL, "error",
                                                              error, "problems", f ? f->problems : NULL)));
}

/* ---- asking ---- */

static bool connected(struct diff *d)
{
    enum outcome outcome = d->client ? OUTCOME_DONE : manager_connect(d->in, &d->client);

    if (outcome == OUTCOME_DONE)
        return true;
    d->outcome = outcome;
    d->away = true;
    return false;
}

static void complain_problems(struct spec_file *f, const json_t *parameters)
{
    const json_t *problem;
    size_t i;

    json_array_clear(f->warnings); /* told already */
    json_array_foreach (json_object_get(parameters, "problems"), i, problem)
        spec_file_add_problem(f, member_text(problem, "path"), member_text(problem, "reason"));
    spec_file_complain(f);
}

static void ask(struct diff *d, const char *name, struct spec_file *f)
{
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;

    if (!connected(d))
        return;
    json_t *parameters = must_json(json_pack("{s:s, s:O*}", "name", name, "spec", f ? f->json : NULL));
    int r = varlink_client_call_consume(d->client, MANAGER_INTERFACE ".Diff", parameters, DIFF_TIMEOUT_MS, &reply, &err);
    if (r >= 0) {
        add_result(d, name, f ? f->shown : NULL, reply);
        return;
    }
    const char *error = varlink_client_error(d->client);
    if (f && r == -EREMOTEIO && streq(error, MANAGER_INTERFACE ".BadSpec")) {
        complain_problems(f, reply);
        add_failure(d, name, f, "BadSpec");
        d->outcome = outcome_merge(d->outcome, OUTCOME_FAILED);
        return;
    }
    complain_call(d->in, name, r, error, reply, &err);
    add_failure(d, name, f, r == -EREMOTEIO ? strrchr(error, '.') + 1 : "Unreachable");
    d->outcome = outcome_merge(d->outcome, outcome_of_call(r, error));
    if (r != -EREMOTEIO) { /* of no more use; the next one tries another */
        varlink_client_free(d->client);
        d->client = NULL;
    }
}

static void ask_file(struct diff *d, const char *path, struct map *names)
{
    auto_spec_file struct spec_file f = { 0 };
    enum outcome outcome = spec_file_load(d->in, path, names, false, &f);

    spec_file_complain(&f);
    if (outcome == OUTCOME_DONE) {
        ask(d, f.spec.name, &f);
        return;
    }
    add_failure(d, NULL, &f, "BadSpec");
    d->outcome = outcome_merge(d->outcome, OUTCOME_FAILED);
}

/* ---- which ---- */

/* A name has no slash, and a spec's file ends in .json: whatever could be either is a VM's name. */
static bool is_file(const char *word)
{
    size_t len = strlen(word);

    return streq(word, "-") || strchr(word, '/') || (len > 5 && streq(word + len - 5, ".json"));
}

static void ask_all(struct diff *d, bool names_too)
{
    auto_map struct map *seen = NULL;

    if (map_new(&seen) < 0)
        must(NULL);
    for (size_t i = 0; i < d->in->n_args && !d->away; i++) {
        struct invocation one = *d->in;
        auto_strv struct strv paths = { 0 };

        one.args = d->in->args + i;
        one.n_args = 1;
        if (names_too && !is_file(*one.args)) {
            if (name_check(d->in, *one.args) == OUTCOME_DONE)
                ask(d, *one.args, NULL);
            else
                d->outcome = OUTCOME_USAGE;
            continue;
        }
        d->outcome = outcome_merge(d->outcome, spec_files_expand(&one, &paths));
        for (size_t k = 0; k < paths.n && !d->away; k++)
            ask_file(d, paths.items[k], seen);
    }
}

enum outcome diff_run(const struct invocation *in, bool names_too)
{
    struct diff d = { .in = in, .results = in->json ? must_json(json_array()) : NULL };

    table_init(&d.table, columns, ARRAY_LEN(columns));
    if (in->all) {
        auto_strv struct strv names = { 0 };

        d.outcome = names_resolve(in, &names);
        for (size_t i = 0; i < names.n && !d.away; i++)
            ask(&d, names.items[i], NULL);
    } else {
        ask_all(&d, names_too);
    }
    if (d.results)
        put_json(d.results);
    else if (d.table.n_rows > 0 && !in->quiet)
        d.outcome = outcome_merge(d.outcome, table_print(&d.table, in));
    table_clear(&d.table);
    json_decref(d.results);
    varlink_client_free(d.client);
    return d.outcome;
}

static enum outcome run(const struct invocation *in)
{
    if (!in->all && in->n_args == 0)
        return complain_usage(in->verb, "diff needs the name of a VM, the file of a spec, or --all");
    return diff_run(in, true);
}

static const struct flag flags[] = { FLAG_ALL, FLAGS_END };

const struct verb verb_diff = {
    .name = "diff",
    .args = "NAME|FILE...",
    .group = "declare",
    .summary = "show what a spec would change, and whether by a restart",
    .details =
        "Of a NAME, the spec on disk against what runs; of a FILE (a path, something.json, or - for standard input), that spec. A line\n"
        "for each VM, and a table of the differences. Nothing is changed. The exit status is 0 also when there are differences.",
    .example = "vmctl diff web\nvmctl diff ./web.json --json | jq '.[].effect'",
    .flags = flags,
    .takes = TAKES_VMS_AND_FILES,
    .max_args = ARGS_ANY,
    .run = run,
};
