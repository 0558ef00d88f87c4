#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/shim_survey.h"
#include "cmd/vmctl/text.h"
#include "cmd/vmctl/verbs.h"
#include "cmd/vmctl/vm_view.h"
#include "lib/base/json.h"

static void line_process(const char *label, const json_t *process)
{
    char text[64] = "-";

    if (member_int(process, "pid") > 0)
        snprintf(text, sizeof(text), "pid %lld, start time %lld", (long long)member_int(process, "pid"),
                 (long long)member_int(process, "start_time"));
    vm_view_line(label, text);
}

static void show(const json_t *shim)
{
    const json_t *status = json_object_get(shim, "status");
    const char *health = member_text(status, "health");
    char elapsed[ELAPSED_MAX], number[24];
    auto_free char *exit = vm_view_exit(json_object_get(status, "last_exit"));

    printf("%s: %s", member_text(shim, "name"), member_text(shim, "state"));
    if (json_is_object(json_object_get(status, "qemu")))
        printf(" for %s", text_elapsed((uint64_t)member_int(status, "uptime_ms"), elapsed));
    if (*health && !streq(health, "none"))
        printf(", %s", health);
    putchar('\n');
    vm_view_line("reason", member_text(shim, "reason"));
    if (!json_is_object(status))
        return;
    vm_view_line("detail", member_text(status, "detail"));
    vm_view_line("since", member_text(status, "since"));
    snprintf(number, sizeof(number), "%lld", (long long)member_int(status, "incarnation"));
    vm_view_line("incarnation", number);
    snprintf(number, sizeof(number), "%lld", (long long)member_int(status, "restarts"));
    vm_view_line("restarts", number);
    line_process("qemu", json_object_get(status, "qemu"));
    line_process("shim", json_object_get(status, "shim"));
    vm_view_line("version", member_text(status, "version"));
    vm_view_line("plan", member_text(status, "plan_digest"));
    snprintf(number, sizeof(number), "%lld", (long long)member_int(status, "event_seq"));
    vm_view_line("last event", number);
    vm_view_line("last exit", exit);
}

static enum outcome run(const struct invocation *in)
{
    auto_json json_t *survey = NULL;
    size_t i;
    json_t *shim;
    enum outcome outcome = OUTCOME_DONE;

    for (i = 0; i < in->n_args && outcome == OUTCOME_DONE; i++)
        outcome = name_check(in, in->args[i]);
    if (outcome != OUTCOME_DONE)
        return outcome;
    outcome = shim_survey(in, in->args, in->n_args, &survey);
    json_array_foreach (survey, i, shim) {
        if (!in->json)
            show(shim);
        /* A shim that should answer and didn't is a failure, whatever is shown. */
        if (!json_is_object(json_object_get(shim, "status")))
            outcome = outcome_merge(outcome, streq(member_text(shim, "state"), "unresponsive") ? OUTCOME_TIMED_OUT : OUTCOME_FAILED);
    }
    if (in->json)
        put_json(survey);
    return outcome;
}

const struct verb verb_shim_status = {
    .name = "shim status",
    .args = "NAME...",
    .group = "shim",
    .summary = "ask the shims of some VMs, manager or not",
    .example = "vmctl shim status web",
    .takes = TAKES_VMS,
    .min_args = 1,
    .max_args = ARGS_ANY,
    .run = run,
};
