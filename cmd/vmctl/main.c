/* vmctl: what an operator types. Thin: it asks the manager, or a shim, and prints the answer. */
#include <signal.h>

#include "cmd/vmctl/arguments.h"
#include "cmd/vmctl/help.h"
#include "cmd/vmctl/output.h"
#include "lib/base/err.h"
#include "lib/base/fd.h"

static int resolve_dirs(struct invocation *in)
{
    struct err err = ERR_INIT;

    if (str_set(&in->dirs.run, in->run_dir) < 0 || str_set(&in->dirs.state, in->state_dir) < 0 || str_set(&in->dirs.log, in->log_dir) < 0 ||
        str_set(&in->dirs.config, in->config_dir) < 0)
        must(NULL);
    int r = dirs_resolve(&in->dirs, &err);
    if (r < 0)
        complain("%s", err.text);
    return r;
}

static enum outcome run(struct invocation *in, int argc, char **argv)
{
    enum outcome outcome = arguments_parse(argc, argv, in);

    if (outcome != OUTCOME_DONE)
        return outcome;
    if (in->help)
        return help_print(in, in->verb, in->n_args && !in->verb ? in->args[0] : NULL);
    if (in->version) {
        puts("vmctl " HOLDFAST_VERSION);
        return OUTCOME_DONE;
    }
    if (resolve_dirs(in) < 0)
        return OUTCOME_FAILED;
    return in->verb->run(in);
}

int main(int argc, char **argv)
{
    struct invocation in = { 0 };

    if (fd_ensure_stdio() < 0)
        return OUTCOME_FAILED;
    /* A reader that went away is noticed at the next write: a terminal in raw mode must be given back first. */
    signal(SIGPIPE, SIG_IGN);
    enum outcome outcome = run(&in, argc, argv);
    dirs_clear(&in.dirs);
    enum outcome finished = finish_output();
    return outcome != OUTCOME_DONE ? outcome : finished;
}
