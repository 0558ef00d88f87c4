#include "cmd/vmctl/doctor.h"

#include "cmd/vmctl/doctor_prove.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/verbs.h"
#include "lib/base/record.h"
#include "lib/base/util.h"

/* In the order in which they are told. */
const struct doctor_check doctor_checks[] = {
    { "restart", "in which cgroup each VM lives, and whether a restart of the manager would reach it there", doctor_check_restart },
    { "unit", "the settings of the manager's unit: KillMode, RuntimeDirectory, OOMPolicy", doctor_check_unit },
    { "linger", "whether a user's VMs outlive his login", doctor_check_linger },
    { "drain", "whether guests are shut down in order with the host", doctor_check_drain },
    { "versions", "the manager and the shims that run, against what is installed", doctor_check_versions },
    { "qemu", "QEMU and qemu-img", doctor_check_qemu },
    { "kvm", "hardware virtualization", doctor_check_kvm },
    { "tee", "TDX and SEV-SNP", doctor_check_tee },
    { "userfaultfd", "what snapshots of running VMs and lazy restores need", doctor_check_userfaultfd },
    { "hugepages", "huge pages, reserved and transparent", doctor_check_hugepages },
    { "limits", "open files, locked memory, processes", doctor_check_limits },
    { "space", "room in the folders", doctor_check_space },
    { NULL, NULL, NULL },
};
enum { RESTART_CHECKS = 3 }; /* how many of the first tell whether a restart keeps the VMs */

static const char *const verdict_words[VERDICT_COUNT] = {
    [VERDICT_OK] = "ok",
    [VERDICT_NOTE] = "note",
    [VERDICT_WARNING] = "warning",
    [VERDICT_PROBLEM] = "problem",
};
static const char *const verdict_colors[VERDICT_COUNT] = {
    [VERDICT_OK] = "\033[32m",
    [VERDICT_NOTE] = "",
    [VERDICT_WARNING] = "\033[33m",
    [VERDICT_PROBLEM] = "\033[31m",
};

static void print_finding(const struct doctor *d, enum verdict verdict, const char *text, const char *remedy)
{
    const struct invocation *in = d->in;
    auto_free char *line = NULL;
    bool color = color_wanted(in, 1) && *verdict_colors[verdict];

    if (in->json || (in->quiet && verdict < VERDICT_WARNING))
        return;
    /* Colour outside of put_line(), which lets no escape sequence through. */
    if (color)
        (void)fputs(verdict_colors[verdict], stdout);
    printf("%-8s", verdict_words[verdict]);
    if (color)
        (void)fputs("\033[0m", stdout);
    if (str_format(&line, "%-12s %s%s%s", d->check, text, remedy ? "; remedy: " : "", remedy ? remedy : "") < 0)
        must(NULL);
    put_line(line);
}

void doctor_find(struct doctor *d, enum verdict verdict, const char *remedy, const char *fmt, ...)
{
    auto_free char *text = NULL;
    va_list args;

    va_start(args, fmt);
    int r = vasprintf(&text, fmt, args);
    va_end(args);
    if (r < 0) {
        text = NULL;
        must(NULL);
    }
    utf8_clean(text);
    d->counts[verdict]++;
    json_array_append_new(d->findings, must_json(json_pack("{s:s, s:s, s:s, s:s?}", "check", d->check, "verdict", verdict_words[verdict],
                                                           "text", text, "remedy", remedy)));
    print_finding(d, verdict, text, remedy);
}

void doctor_run_checks(struct doctor *d, bool restart_only)
{
    for (size_t i = 0; doctor_checks[i].name && (!restart_only || i < RESTART_CHECKS); i++) {
        d->check = doctor_checks[i].name;
        doctor_checks[i].run(d);
    }
}

/* true, false, or null where it can't be told. */
static json_t *survives_json(const struct doctor *d)
{
    return d->restart_kills ? json_false() : d->restart_unclear ? json_null() : json_true();
}

static const char *survives_words(const struct doctor *d)
{
    return d->restart_kills     ? "A restart of the manager would end or lose VMs."
           : d->restart_unclear ? "Whether a restart of the manager would keep the VMs can't be told from here."
                                : "A restart of the manager keeps every VM.";
}

static enum outcome run(const struct invocation *in)
{
    auto_doctor struct doctor d = { 0 };

    if (in->prove)
        return doctor_prove(in);
    if (in->restart_with || in->force)
        return complain_usage(in->verb, "--%s goes with --prove", in->force ? "force" : "restart-with");
    doctor_open(&d, in);
    doctor_run_checks(&d, false);
    if (in->json) {
        auto_json json_t *all =
            must_json(json_pack("{s:o, s:O, s:i, s:i}", "restart_keeps_vms", survives_json(&d), "findings", d.findings, "problems",
                                (int)d.counts[VERDICT_PROBLEM], "warnings", (int)d.counts[VERDICT_WARNING]));
        put_json(all);
    }
    say(in, "%s", survives_words(&d));
    if (!d.counts[VERDICT_PROBLEM])
        return OUTCOME_DONE;
    enum outcome lost = finish_output();
    complain("%u problem%s found", d.counts[VERDICT_PROBLEM], d.counts[VERDICT_PROBLEM] == 1 ? "" : "s");
    return lost != OUTCOME_DONE ? lost : OUTCOME_FAILED;
}

static const struct flag flags[] = {
    { "prove", 0, FLAG_SET, NULL, "restart the manager, and see whether a throw-away VM and all others live on",
      offsetof(struct invocation, prove), NULL },
    { "restart-with", 0, FLAG_TEXT, "COMMAND", "with --prove: a shell's command that restarts it, instead of systemctl",
      offsetof(struct invocation, restart_with), NULL },
    { "force", 0, FLAG_SET, NULL, "with --prove: although VMs are in danger", offsetof(struct invocation, force), NULL },
    { "unit", 0, FLAG_TEXT, "UNIT", "the manager's unit (the one it is in, or holdfastd.service)", offsetof(struct invocation, unit),
      NULL },
    { "root", 0, FLAG_TEXT, "DIR", "look at the host whose files are below DIR", offsetof(struct invocation, root), NULL },
    FLAGS_END,
};

const struct verb verb_doctor = {
    .name = "doctor",
    .args = "",
    .group = "about",
    .summary = "find what of this host would hurt its VMs, and what to do about it",
    .details =
        "First of all: would a restart of the manager keep the VMs, and why. Each finding is a line: ok, note, warning or problem, with\n"
        "its remedy; -q leaves out the first two. Exit status 1 when there is a problem. No manager is needed.\n"
        "--prove starts a VM with an empty disk, restarts the manager through systemd, compares the pids of all VMs before and after,\n"
        "and removes that VM; refused where the checks say that a restart would kill VMs.",
    .example = "vmctl doctor\nvmctl doctor --json | jq '.findings[] | select(.verdict == \"problem\")'\nvmctl doctor --prove",
    .flags = flags,
    .takes = TAKES_NOTHING,
    .run = run,
};
