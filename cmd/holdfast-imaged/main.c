/* holdfast-imaged: the images of a host's VMs. Options and the first instructions; the rest is lib/images. */
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/spawn.h"
#include "lib/images/service.h"

static struct dirs arg_dirs;
static const char *arg_group;
static int arg_log_level = -1;

static const char usage_text[] =
    "holdfast-imaged: fetches, verifies and keeps the images of this host's VMs\n"
    "\n"
    "  holdfast-imaged [OPTIONS]\n"
    "\n"
    "  --run-dir DIR      images.sock                 (or HOLDFAST_RUN_DIR; root: /run/holdfast)\n"
    "  --state-dir DIR    images/NAME/VERSION         (or HOLDFAST_STATE_DIR; root: /var/lib/holdfast)\n"
    "  --log-dir DIR      not used                    (or HOLDFAST_LOG_DIR; root: /var/log/holdfast)\n"
    "  --config-dir DIR   holdfast.json               (or HOLDFAST_CONFIG_DIR; root: /etc/holdfast)\n"
    "  --group NAME       whose members may manage    (holdfast, where there is one)\n"
    "  --log-level LEVEL  error, warning, info or debug\n"
    "  --help, --version\n"
    "\n"
    "It may be stopped, killed and restarted at any time: pulls under way go on where they were, and VMs never notice.\n"
    "\n"
    "Example: holdfast-imaged --run-dir /tmp/h/run --state-dir /tmp/h/state --config-dir /tmp/h/etc\n";

enum { OPT_RUN_DIR = 256, OPT_STATE_DIR, OPT_LOG_DIR, OPT_CONFIG_DIR, OPT_GROUP, OPT_LOG_LEVEL };

static const struct option options[] = {
    { "run-dir", required_argument, NULL, OPT_RUN_DIR },
    { "state-dir", required_argument, NULL, OPT_STATE_DIR },
    { "log-dir", required_argument, NULL, OPT_LOG_DIR },
    { "config-dir", required_argument, NULL, OPT_CONFIG_DIR },
    { "group", required_argument, NULL, OPT_GROUP },
    { "log-level", required_argument, NULL, OPT_LOG_LEVEL },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 },
};

static int usage_error(const char *why)
{
    (void)fprintf(stderr, "holdfast-imaged: %s; see holdfast-imaged --help\n", why);
    return 2;
}

static int take_dir(char **slot)
{
    if (!*optarg)
        return usage_error("a folder needs a name");
    return str_set(slot, optarg) < 0 ? 1 : -1;
}

static int take_log_level(void)
{
    enum log_level level;

    if (log_level_from_string(optarg, &level) < 0)
        return usage_error("--log-level takes error, warning, info or debug");
    arg_log_level = (int)level;
    return -1;
}

/* -1: go on, else the exit status. */
static int take_option(int option)
{
    switch (option) {
    case 'h':
        (void)fputs(usage_text, stdout);
        return 0;
    case 'V':
        (void)puts("holdfast-imaged " HOLDFAST_VERSION);
        return 0;
    case OPT_RUN_DIR:
        return take_dir(&arg_dirs.run);
    case OPT_STATE_DIR:
        return take_dir(&arg_dirs.state);
    case OPT_LOG_DIR:
        return take_dir(&arg_dirs.log);
    case OPT_CONFIG_DIR:
        return take_dir(&arg_dirs.config);
    case OPT_GROUP:
        arg_group = optarg;
        return -1;
    case OPT_LOG_LEVEL:
        return take_log_level();
    default:
        (void)fputs("See holdfast-imaged --help\n", stderr);
        return 2;
    }
}

static int parse_arguments(int argc, char **argv)
{
    int option, r;

    while ((option = getopt_long(argc, argv, "hV", options, NULL)) >= 0) {
        r = take_option(option);
        if (r >= 0)
            return r;
    }
    return optind < argc ? usage_error("no arguments are taken but options") : -1;
}

static int run(void)
{
    struct dirs auto_dirs dirs = arg_dirs;
    auto_images_service struct images_service *s = NULL;
    struct err err = ERR_INIT;
    int r;

    arg_dirs = (struct dirs){ 0 };
    if (arg_log_level >= 0)
        log_set_level((enum log_level)arg_log_level);
    r = dirs_resolve(&dirs, &err);
    if (r >= 0)
        r = images_service_new(&(struct images_service_options){ .dirs = &dirs, .group = arg_group }, &s, &err);
    if (r < 0) {
        (void)err_from(&err, r, "can't start");
        log_error("%s", err.text);
        return 1;
    }
    return images_service_run(s) < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    int r = parse_arguments(argc, argv);

    if (r >= 0) {
        dirs_clear(&arg_dirs);
        return r;
    }
    /* Whatever whoever started us had done to us. */
    signals_reset();
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || fd_ensure_stdio() < 0 || fd_close_others(NULL, 0) < 0)
        return 1;
    (void)umask(022);
    log_open("holdfast-imaged", LOG_LEVEL_INFO);
    /* Threads come and go: what they had is given back. */
    (void)mallopt(M_ARENA_MAX, 2);
    json_object_seed(0); /* before there are threads */
    return run();
}
