#include <errno.h>

#include "cmd/vmctl/change.h"
#include "cmd/vmctl/diff.h"
#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/spec_file.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/clock.h"
#include "lib/base/json.h"

/* Checking and writing a spec means files and qemu-img at most; a VM's start is waited for apart from this. */
enum { APPLY_TIMEOUT_MS = 30 * 1000 };

struct apply {
    const struct invocation *in;
    struct varlink_client *client;
    struct strv starting;   /* the VMs to wait for */
    struct strv restarting; /* with --restart: those that run by an earlier spec */
    struct map *changes;    /* VM → json_t of its Apply reply */
    json_t *results;        /* with --json: those that aren't waited for */
    enum outcome outcome;
    bool away; /* nobody to ask: the rest needn't be tried */
};

static void problems_from_manager(struct spec_file *f, const json_t *parameters)
{
    size_t i;
    json_t *problem;

    json_array_foreach (json_object_get(parameters, "problems"), i, problem)
        spec_file_add_problem(f, member_text(problem, "path"), member_text(problem, "reason"));
    if (!i)
        spec_file_add_problem(f, "", member_text(parameters, "reason"));
}

static void add_failure(struct apply *a, const struct spec_file *f, const char *error)
{
    if (!a->in->json)
        return;
    json_array_append_new(a->results, must_json(json_pack("{s:s, s:s?, s:b, s:s, s:O}", "file", f->shown, "name", f->spec.name, "done", 0,
                                                          "error", error, "problems", f->problems)));
}

/* What is said of a spec: "created", and whether the running VM lags behind. */
static const char *restart_hint(const json_t *change)
{
    return json_is_true(json_object_get(change, "restart_needed")) ? "; it runs with its earlier spec until: vmctl restart " : "";
}

/* "; changed while it runs: forward tcp:127.0.0.1:8080-:80 added, health", or nothing. Never NULL. */
static char *live_hint(const json_t *change)
{
    char *text = must(strdup(""));
    const json_t *line;
    size_t i;

    json_array_foreach (json_object_get(change, "live"), i, line) {
        auto_free char *before = text;

        if (str_format(&text, "%s%s%s", before, i ? ", " : "; changed while it runs: ", json_string_value(line)) < 0)
            must(NULL);
    }
    return text;
}

static void applied(struct apply *a, const struct spec_file *f, const json_t *reply)
{
    const char *name = member_text(reply, "name");
    bool restart = a->in->restart && f->spec.enabled && json_is_true(json_object_get(reply, "restart_needed"));

    if (restart) {
        if (map_put(a->changes, name, json_incref((json_t *)(uintptr_t)reply)) < 0)
            must(NULL);
        strv_push(&a->restarting, name);
    } else if (f->spec.enabled && !a->in->no_wait) {
        if (map_put(a->changes, name, json_incref((json_t *)(uintptr_t)reply)) < 0)
            must(NULL);
        strv_push(&a->starting, name);
    } else if (a->in->json) {
        json_t *result = must_json(json_deep_copy(reply));
        json_object_set_new(result, "done", json_true());
        json_array_append_new(a->results, result);
    } else {
        const char *hint = restart_hint(reply);
        auto_free char *live = live_hint(reply);
        say(a->in, "%s: %s%s%s%s%s", name, member_text(reply, "change"), f->spec.enabled ? "" : ", not enabled", hint, *hint ? name : "",
            live);
    }
}

static void apply_one(struct apply *a, const char *path, struct map *names)
{
    auto_spec_file struct spec_file f = { 0 };
    auto_json json_t *reply = NULL;
    struct err err = ERR_INIT;

    if (spec_file_load(a->in, path, names, false, &f) != OUTCOME_DONE) {
        spec_file_complain(&f);
        add_failure(a, &f, "BadSpec");
        a->outcome = OUTCOME_FAILED;
        return;
    }
    spec_file_complain(&f); /* warnings, at most */
    /* Connected only now: a spec's own mistakes are told with no manager too. */
    if (!a->client) {
        enum outcome outcome = manager_connect(a->in, &a->client);
        if (outcome != OUTCOME_DONE) {
            a->outcome = outcome;
            a->away = true;
            return;
        }
    }
    json_t *parameters = must_json(json_pack("{s:O}", "spec", f.json));
    int r = varlink_client_call_consume(a->client, MANAGER_INTERFACE ".Apply", parameters, APPLY_TIMEOUT_MS, &reply, &err);
    if (r >= 0) {
        applied(a, &f, reply);
        return;
    }
    const char *error = varlink_client_error(a->client);
    if (r == -EREMOTEIO && streq(error, MANAGER_INTERFACE ".BadSpec")) {
        json_array_clear(f.warnings); /* told already */
        problems_from_manager(&f, reply);
        spec_file_complain(&f);
        add_failure(a, &f, "BadSpec");
        a->outcome = OUTCOME_FAILED;
        return;
    }
    complain_call(a->in, f.spec.name, r, error, reply, &err);
    add_failure(a, &f, r == -EREMOTEIO ? strrchr(error, '.') + 1 : "Unreachable");
    a->outcome = outcome_merge(a->outcome, outcome_of_call(r, error));
    /* A connection that failed is of no more use; the next spec tries another. */
    if (r != -EREMOTEIO) {
        varlink_client_free(a->client);
        a->client = NULL;
    }
}

static char *told(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    const struct apply *a = arg;
    const json_t *change = map_get(a->changes, name);
    char *line = NULL, elapsed[ELAPSED_MAX];
    const char *state = member_text(json_object_get(reply, "vm"), "state");
    auto_free char *live = live_hint(change);

    if (str_format(&line, "%s, %s (%s)%s%s%s", member_text(change, "change"), *state ? state : "started", text_elapsed(took_ms, elapsed),
                   restart_hint(change), *restart_hint(change) ? name : "", live) < 0)
        must(NULL);
    return line;
}

static char *told_restarted(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    const struct apply *a = arg;
    auto_free char *state = change_told_state(in, name, reply, took_ms, NULL);
    char *line = NULL;

    if (str_format(&line, "%s, restarted: %s", member_text(map_get(a->changes, name), "change"), state) < 0)
        must(NULL);
    return line;
}

/* The results of the starts, with what Apply had said before. */
static void complete_results(const struct apply *a)
{
    size_t i;
    json_t *result;

    json_array_foreach (a->results, i, result) {
        json_t *change = map_get(a->changes, member_text(result, "name"));
        if (change)
            json_object_update_missing(result, change);
    }
}

static void wait_for_starts(struct apply *a)
{
    const struct change change = {
        .method = "Start",
        .doing = "starting",
        .timeout_ms = a->in->timeout_ms,
        .wait = true,
        .told = told,
        .arg = a,
        .results = a->results,
    };

    if (a->starting.failed)
        must(NULL);
    if (a->starting.n)
        a->outcome = outcome_merge(a->outcome, change_run(a->in, &change, strv_argv(&a->starting), a->starting.n));
}

/* One after the other, so that never all of them are down. */
static void restart_in_turn(struct apply *a)
{
    const struct change change = {
        .method = "Restart",
        .doing = "restarting",
        .timeout_ms = a->in->timeout_ms,
        .wait = !a->in->no_wait,
        .told = told_restarted,
        .arg = a,
        .results = a->results,
    };

    if (a->restarting.failed)
        must(NULL);
    for (size_t i = 0; i < a->restarting.n; i++)
        a->outcome = outcome_merge(a->outcome, change_run(a->in, &change, strv_argv(&a->restarting) + i, 1));
}

static enum outcome run(const struct invocation *in)
{
    if (in->dry_run)
        return diff_run(in, false);

    struct apply a = { .in = in, .results = in->json ? must_json(json_array()) : NULL };
    auto_strv struct strv paths = { 0 };
    auto_map struct map *names = NULL;

    if (map_new(&names) < 0 || map_new(&a.changes) < 0)
        must(NULL);
    a.outcome = spec_files_expand(in, &paths);
    for (size_t i = 0; i < paths.n && !a.away; i++)
        apply_one(&a, paths.items[i], names);
    wait_for_starts(&a);
    restart_in_turn(&a);
    if (a.results) {
        complete_results(&a);
        put_json(a.results);
    }
    map_foreach (a.changes, e)
        json_decref(map_value(e));
    map_free(a.changes);
    strv_clear(&a.starting);
    strv_clear(&a.restarting);
    json_decref(a.results);
    varlink_client_free(a.client);
    return a.outcome;
}

static const struct flag flags[] = {
    { "dry-run", 0, FLAG_SET, NULL, "only show what would be done, as diff does", offsetof(struct invocation, dry_run), NULL },
    FLAG_NO_WAIT,
    { "restart", 0, FLAG_SET, NULL, "restart VMs that run by an earlier spec, one after the other", offsetof(struct invocation, restart),
      NULL },
    { "timeout", 't', FLAG_DURATION, "DURATION", "wait no longer than this; the start goes on", offsetof(struct invocation, timeout_ms),
      NULL },
    FLAGS_END,
};

const struct verb verb_apply = {
    .name = "apply",
    .args = "FILE...",
    .group = "declare",
    .summary = "make VMs as the specs say, and wait until they run",
    .details =
        "FILE may be a folder (all its *.json) or - for standard input. A spec with mistakes changes nothing, and the others are\n"
        "applied all the same. Of a VM that runs, forwards, health probes, restart policy, stop time and log limits are changed at once; with any\n"
        "other difference it goes on with its earlier spec until it is restarted (see: vmctl diff);\n"
        "with --restart that is done here.",
    .example = "vmctl apply web.json\nvmctl apply /srv/vms --dry-run\nvmctl apply /srv/vms --restart",
    .flags = flags,
    .takes = TAKES_FILES,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
