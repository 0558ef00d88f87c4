/* holdfastd: the manager of a host's VMs. Options and the first instructions; the rest is lib/manager. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <sys/stat.h>

#include "lib/base/fd.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/spawn.h"
#include "lib/manager/manager.h"

static struct dirs arg_dirs;
static const char *arg_shim, *arg_group, *arg_sysfs_root;
static int arg_log_level = -1;

static const char usage_text[] =
    "holdfastd: keeps the VMs of this host running, each under a shim of its own\n"
    "\n"
    "  holdfastd [OPTIONS]\n"
    "\n"
    "  --run-dir DIR      locks, sockets, status      (or HOLDFAST_RUN_DIR; root: /run/holdfast)\n"
    "  --state-dir DIR    wishes, exits, disks        (or HOLDFAST_STATE_DIR; root: /var/lib/holdfast)\n"
    "  --log-dir DIR      consoles, QEMU's words      (or HOLDFAST_LOG_DIR; root: /var/log/holdfast)\n"
    "  --config-dir DIR   holdfast.json, vms/*.json   (or HOLDFAST_CONFIG_DIR; root: /etc/holdfast)\n"
    "  --shim PATH        the shim to start           (beside this program)\n"
    "  --group NAME       whose members may manage    (holdfast, where there is one)\n"
    "  --sysfs-root DIR   in front of /sys, /proc and /dev/vfio, where devices are looked up (for tests)\n"
    "  --log-level LEVEL  error, warning, info or debug\n"
    "  --help, --version\n"
    "\n"
    "It may be stopped, killed and restarted at any time: the VMs run on, and the next manager finds them again.\n"
    "\n"
    "Example: holdfastd --run-dir /tmp/h/run --state-dir /tmp/h/state --log-dir /tmp/h/log --config-dir /tmp/h/etc\n";

enum { OPT_RUN_DIR = 256, OPT_STATE_DIR, OPT_LOG_DIR, OPT_CONFIG_DIR, OPT_SHIM, OPT_GROUP, OPT_SYSFS_ROOT, OPT_LOG_LEVEL };

static const struct option options[] = {
    { "run-dir", required_argument, NULL, OPT_RUN_DIR },
    { "state-dir", required_argument, NULL, OPT_STATE_DIR },
    { "log-dir", required_argument, NULL, OPT_LOG_DIR },
    { "config-dir", required_argument, NULL, OPT_CONFIG_DIR },
    { "shim", required_argument, NULL, OPT_SHIM },
    { "group", required_argument, NULL, OPT_GROUP },
    { "sysfs-root", required_argument, NULL, OPT_SYSFS_ROOT },
    { "log-level", required_argument, NULL, OPT_LOG_LEVEL },
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { NULL, 0, NULL, 0 },
};

static int usage_error(const char *why)
{
    (void)fprintf(stderr, "holdfastd: %s; see holdfastd --help\n", why);
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
        (void)puts("holdfastd " HOLDFAST_VERSION);
        return 0;
    case OPT_RUN_DIR:
        return take_dir(&arg_dirs.run);
    case OPT_STATE_DIR:
        return take_dir(&arg_dirs.state);
    case OPT_LOG_DIR:
        return take_dir(&arg_dirs.log);
    case OPT_CONFIG_DIR:
        return take_dir(&arg_dirs.config);
    case OPT_SHIM:
        arg_shim = optarg;
        return -1;
    case OPT_GROUP:
        arg_group = optarg;
        return -1;
    case OPT_SYSFS_ROOT:
        arg_sysfs_root = optarg;
        return *optarg == '/' ? -1 : usage_error("--sysfs-root takes an absolute path");
    case OPT_LOG_LEVEL:
        return take_log_level();
    default:
        (void)fputs("See holdfastd --help\n", stderr);
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

/* Where the shim is: as told, or where this program is. Absolute, since shims outlive our working folder. */
static int find_shim(char **ret_path, struct err *err)
{
    int r;

    if (arg_shim) {
        *ret_path = realpath(arg_shim, NULL);
        return *ret_path ? 0 : err_set_errno(err, errno, "no-shim", "--shim %s", arg_shim);
    }
    r = program_find("holdfast-shim", ret_path, err);
    return r == -ENOENT ? err_set(err, ENOENT, "no-shim", "%s: say --shim PATH", err->text) : r;
}

static int run(void)
{
    struct dirs auto_dirs dirs = arg_dirs;
    auto_free char *shim = NULL;
    auto_manager struct manager *m = NULL;
    struct err err = ERR_INIT;
    int r;

    r = dirs_resolve(&dirs, &err);
    if (r >= 0)
        r = find_shim(&shim, &err);
    if (r >= 0)
        r = manager_new(
            &(struct manager_options){
                .dirs = &dirs, .shim_path = shim, .group = arg_group, .sysfs_root = arg_sysfs_root, .log_level = arg_log_level },
            &m, &err);
    if (r < 0) {
        (void)err_from(&err, r, "can't start");
        log_error("%s", err.text);
        return 1;
    }
    return manager_run(m) < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
    int r;

    r = parse_arguments(argc, argv);
    if (r >= 0) {
        dirs_clear(&arg_dirs);
        return r;
    }
    /* Whatever whoever started us had done to us. */
    signals_reset();
    if (signal(SIGPIPE, SIG_IGN) == SIG_ERR || fd_ensure_stdio() < 0 || fd_close_others(NULL, 0) < 0)
        return 1;
    (void)umask(022);
    log_open("holdfastd", LOG_LEVEL_INFO);
    /* Worker threads share one heap: a thousand VMs are to cost a few MiB, and nothing here is that parallel. */
    (void)mallopt(M_ARENA_MAX, 1);
    json_object_seed(0); /* before there are threads */
    return run();
}
