#include "cmd/vmctl/change.h"

#include <errno.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/parallel.h"
#include "cmd/vmctl/terminal.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/clock.h"
#include "lib/base/json.h"

/* A change on its way. */
struct run {
    const struct invocation *in;
    const struct change *c;
    struct parallel parallel;
    uint64_t begun_us;
    bool show_progress;
    bool told_away; /* that the manager can't be reached is said once */
    enum outcome outcome;
    json_t *results; /* with --json */
};

static char *run_socket(void *arg, const struct task *t)
{
    const struct run *run = arg;

    return manager_socket(run->in);
}

static json_t *run_parameters(void *arg, const struct task *t)
{
    const struct run *run = arg;
    json_t *parameters = must_json(run->c->parameters ? json_copy((json_t *)(uintptr_t)run->c->parameters) : json_object());

    json_object_set_new(parameters, "name", must_json(json_string(t->name)));
    return parameters;
}

/* One line that is written over again and again: "stopping web: acpi power button, 12 s". */
static void run_draw(void *arg)
{
    const struct run *run = arg;
    const struct task *first = NULL;
    size_t n = 0;
    char elapsed[ELAPSED_MAX];

    if (!run->show_progress)
        return;
    for (size_t i = 0; i < run->parallel.n; i++) {
        const struct task *t = &run->parallel.tasks[i];
        if (t->phase == TASK_ENDED)
            continue;
        n++;
        if (!first)
            first = t;
    }
    if (!first)
        return;
    text_elapsed((clock_mono_us() - run->begun_us) / 1000 / 1000 * 1000, elapsed);
    const char *progress = first->progress ? first->progress : "waiting";
    auto_free char *line = NULL;
    int r = n == 1 ? str_format(&line, "%s %s: %s, %s", run->c->doing, first->name, progress, elapsed)
                   : str_format(&line, "%s %zu VMs, %s; %s: %s", run->c->doing, n, elapsed, first->name, progress);
    if (r < 0)
        must(NULL);
    terminal_status_line(line);
}

static bool run_progress(void *arg, struct task *t, const json_t *reply)
{
    struct run *run = arg;
    const char *text = member_text(reply, "progress");

    if (!run->c->wait)
        return true;
    if (*text) {
        free(t->progress);
        t->progress = text_one_line(text);
    }
    run_draw(run);
    return false;
}

static void add_result(struct run *run, const struct task *t, enum outcome outcome)
{
    json_t *result = must_json(json_pack("{s:s, s:b}", "name", t->name, "done", outcome == OUTCOME_DONE));
    const json_t *vm = json_object_get(t->reply, "vm");

    if (outcome == OUTCOME_DONE && t->reply)
        json_object_update_missing(result, t->reply);
    if (outcome != OUTCOME_DONE) {
        const char *dot = t->error ? strrchr(t->error, '.') : NULL;
        const char *reason = member_text(t->reply, "reason");
        const char *error = dot ? dot + 1 : t->result == -ETIMEDOUT ? "TimedOut" : "Unreachable";
        json_object_set_new(result, "error", must_json(json_string(error)));
        json_object_set_new(result, "reason", must_json(json_string(*reason ? reason : t->err.text)));
    }
    if (json_is_null(vm))
        json_object_del(result, "vm");
    json_object_del(result, "progress");
    vm_view_complete(json_object_get(result, "vm"));
    json_array_append_new(run->results, result);
}

static void tell_failure(struct run *run, const struct task *t)
{
    char elapsed[ELAPSED_MAX];

    if (t->result == -ETIMEDOUT) {
        complain("%s: still %s after %s%s%s; it goes on (see: vmctl status %s)", t->name, run->c->doing,
                 text_elapsed((uint64_t)run->c->timeout_ms, elapsed), t->progress ? ": " : "", t->progress ? t->progress : "", t->name);
        return;
    }
    /* A task that never got a connection can say only that there is no manager: once is enough. */
    if (!t->connected && run->told_away)
        return;
    if (!t->connected) {
        run->told_away = true;
        manager_complain_connect(run->in, t->result, &t->err);
        return;
    }
    complain_call(run->in, t->name, t->result, t->error, t->reply, &t->err);
}

static void run_ended(void *arg, struct task *t)
{
    struct run *run = arg;
    enum outcome outcome = outcome_of_call(t->result, t->error);

    if (t->result == -EACCES || t->result == -EPERM)
        outcome = OUTCOME_REFUSED;
    run->outcome = outcome_merge(run->outcome, outcome);
    terminal_status_line(NULL);
    if (run->in->json)
        add_result(run, t, outcome);
    if (outcome != OUTCOME_DONE) {
        tell_failure(run, t);
    } else if (!run->in->json && !run->in->quiet) {
        auto_free char *told = run->c->told(run->in, t->name, t->reply, (clock_mono_us() - t->begun_us) / 1000, run->c->arg);
        say(run->in, "%s: %s", t->name, told);
    }
    run_draw(run);
}

enum outcome change_run(const struct invocation *in, const struct change *c, char *const *names, size_t n)
{
    auto_free char *method = NULL;
    struct run run = {
        .in = in,
        .c = c,
        .begun_us = clock_mono_us(),
        .show_progress = !in->quiet && isatty(STDERR_FILENO),
        .results = !in->json    ? NULL
                   : c->results ? c->results
                                : must_json(json_array()),
    };

    if (str_format(&method, MANAGER_INTERFACE ".%s", c->method) < 0)
        must(NULL);
    run.parallel = (struct parallel){
        .tasks = tasks_new(names, n),
        .n = n,
        .method = method,
        .timeout_ms = c->timeout_ms,
        .socket = run_socket,
        .parameters = run_parameters,
        .progress = run_progress,
        .ended = run_ended,
        .tick = run.show_progress ? run_draw : NULL,
        .arg = &run,
    };
    parallel_run(&run.parallel);
    if (run.results && !c->results) {
        put_json(run.results);
        json_decref(run.results);
    }
    tasks_free(run.parallel.tasks, n);
    return run.outcome;
}

enum outcome change_verb(const struct invocation *in, const struct change *c)
{
    auto_strv struct strv names = { 0 };
    enum outcome outcome = names_resolve(in, &names);

    return outcome == OUTCOME_DONE ? change_run(in, c, strv_argv(&names), names.n) : outcome;
}

char *change_told_state(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    char *line = NULL, elapsed[ELAPSED_MAX];
    const char *state = member_text(json_object_get(reply, "vm"), "state");
    int r;

    if (*state)
        r = str_format(&line, "%s (%s)", state, text_elapsed(took_ms, elapsed));
    else
        r = str_format(&line, "%s", in->no_wait ? "asked, not waited for" : "done");
    return r < 0 ? must(NULL) : line;
}

static char *told_fixed(const struct invocation *in, const char *name, const json_t *reply, uint64_t took_ms, void *arg)
{
    return must(strdup(arg));
}

enum outcome change_at_once(const struct invocation *in, const char *method, const char *doing, const char *told)
{
    const struct change change = {
        .method = method,
        .doing = doing,
        .timeout_ms = -1,
        .wait = true,
        .told = told_fixed,
        .arg = (void *)(uintptr_t)told,
    };

    return change_verb(in, &change);
}

enum outcome change_stopping(const struct invocation *in, const char *method, const char *doing)
{
    auto_json json_t *parameters = must_json(json_object());
    const struct change change = {
        .method = method,
        .doing = doing,
        .parameters = parameters,
        .timeout_ms = -1,
        .wait = !in->no_wait,
        .told = change_told_state,
    };

    if (in->timeout_ms >= 0)
        json_object_set_new(parameters, "timeout_ms", must_json(json_integer(in->timeout_ms)));
    if (in->force)
        json_object_set_new(parameters, "force", json_true());
    return change_verb(in, &change);
}
