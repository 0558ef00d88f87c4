/* holdfast-shim: parent and supervisor of one QEMU. Options, first instructions, and the handshake with whoever started us
 * (proto/launch.h); the rest is in vm.h. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/log.h"
#include "lib/base/parse.h"
#include "lib/base/spawn.h"
#include "proto/launch.h"
#include "shim/foreign.h"
#include "shim/logs.h"
#include "shim/privileges.h"
#include "shim/vm.h"

static int arg_plan_fd = -1, arg_sync_fd = -1;
static bool arg_adopt;
static const char *arg_name, *arg_run_dir, *arg_state_dir, *arg_log_dir, *arg_qmp;
static pid_t arg_foreign; /* 0: QEMU is, or will be, of Holdfast's own starting */

static const char usage_text[] =
    "holdfast-shim: parent and supervisor of one QEMU; started by holdfastd\n"
    "\n"
    "  holdfast-shim --plan-fd N --sync-fd M NAME       start the VM of the plan that N holds\n"
    "  holdfast-shim --adopt --run-dir DIR [--sync-fd M] NAME\n"
    "                                                   take over the QEMU a dead shim left; DIR is RUN/vms/NAME\n"
    "  holdfast-shim --foreign PID --qmp SOCKET --run-dir DIR --state-dir DIR --log-dir DIR [--sync-fd M] NAME\n"
    "                                                   take a QEMU under supervision that was started by other means\n"
    "  holdfast-shim --version | --help\n";

/* The line to whoever started us, while it waits for ready and we wait for go. */
struct handshake {
    ev_io io;
    struct vm *vm;
};

static int usage(const char *why)
{
    (void)fprintf(stderr, "holdfast-shim: %s (see --help)\n", why);
    return 2;
}

static int parse_fd(const char *text, int *ret_fd)
{
    uint64_t n;
    int r = parse_u64(text, 3, 1 << 20, &n);

    if (r >= 0)
        *ret_fd = (int)n;
    return r;
}

static int parse_pid(const char *text)
{
    uint64_t n;
    int r = parse_u64(text, 2, INT32_MAX, &n);

    if (r >= 0)
        arg_foreign = (pid_t)n;
    return r;
}

static int take_option(int c)
{
    switch (c) {
    case 'a':
        arg_adopt = true;
        return 0;
    case 'f':
        return parse_pid(optarg);
    case 'q':
        arg_qmp = optarg;
        return 0;
    case 'r':
        arg_run_dir = optarg;
        return 0;
    case 'S':
        arg_state_dir = optarg;
        return 0;
    case 'l':
        arg_log_dir = optarg;
        return 0;
    case 'p':
        return parse_fd(optarg, &arg_plan_fd);
    case 's':
        return parse_fd(optarg, &arg_sync_fd);
    default:
        return -EINVAL;
    }
}

/* -1: they fit together. */
static int check_arguments(void)
{
    if (arg_foreign) {
        const char *const paths[] = { arg_qmp, arg_run_dir, arg_state_dir, arg_log_dir };

        for (size_t i = 0; i < ARRAY_LEN(paths); i++)
            if (!paths[i] || paths[i][0] != '/')
                return usage("--foreign needs --qmp, --run-dir, --state-dir and --log-dir, all absolute");
        return arg_adopt || arg_plan_fd >= 0 ? usage("--foreign goes with neither --adopt nor --plan-fd") : -1;
    }
    if (arg_adopt ? !arg_run_dir : arg_plan_fd < 0 || arg_sync_fd < 0)
        return usage(arg_adopt ? "--adopt needs --run-dir" : "--plan-fd and --sync-fd are needed");
    return -1;
}

/* Returns -1 to go on, else the exit status. */
static int parse_arguments(int argc, char **argv)
{
    static const struct option options[] = {
        { "plan-fd", required_argument, NULL, 'p' },
        { "sync-fd", required_argument, NULL, 's' },
        { "run-dir", required_argument, NULL, 'r' },
        { "state-dir", required_argument, NULL, 'S' },
        { "log-dir", required_argument, NULL, 'l' },
        { "foreign", required_argument, NULL, 'f' },
        { "qmp", required_argument, NULL, 'q' },
        { "adopt", no_argument, NULL, 'a' },
        { "version", no_argument, NULL, 'V' },
        { "help", no_argument, NULL, 'h' },
        { NULL, 0, NULL, 0 },
    };
    int c;

    while ((c = getopt_long(argc, argv, "hV", options, NULL)) != -1) {
        if (c == 'h' || c == 'V') {
            (void)fputs(c == 'h' ? usage_text : "holdfast-shim " HOLDFAST_VERSION "\n", stdout);
            return 0;
        }
        if (take_option(c) < 0)
            return usage("bad option");
    }
    if (optind + 1 != argc || !name_is_valid(argv[optind]))
        return usage("one VM name is needed: " NAME_RULE);
    arg_name = argv[optind];
    return check_arguments();
}

/* Makes a foreign QEMU one that a dead shim of ours might have left. */
static int take_foreign(struct err *err)
{
    int r = foreign_prepare(
        &(struct foreign){
            .name = arg_name,
            .pid = arg_foreign,
            .qmp = arg_qmp,
            .run_dir = arg_run_dir,
            .state_dir = arg_state_dir,
            .log_dir = arg_log_dir,
        },
        err);

    arg_adopt = true;
    return r;
}

static int read_plan(struct plan *ret_plan, struct err *err)
{
    auto_json json_t *json = NULL;
    auto_free char *text = NULL, *path = NULL;
    size_t len;
    int r;

    if (arg_plan_fd >= 0) {
        r = fd_read_all(arg_plan_fd, RECORD_MAX, &text, &len);
        arg_plan_fd = fd_close(arg_plan_fd);
    } else {
        r = str_format(&path, "%s/%s", arg_run_dir, FILE_PLAN);
        if (r >= 0)
            r = file_read(AT_FDCWD, path, RECORD_MAX, &text, &len);
    }
    if (r < 0)
        return err_set_errno(err, -r, "no-plan", "can't read the plan of %s", arg_name);
    r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = plan_from_json(json, ret_plan, err);
    if (r >= 0 && !streq(ret_plan->name, arg_name))
        return err_set(err, EINVAL, "bad-plan", "the plan is for %s, not for %s", ret_plan->name, arg_name);
    return r;
}

/* From here on nobody reads our stderr but the log; a predecessor's lines of this boot stay. */
static void redirect_log(const struct vm *vm)
{
    auto_fd int fd = log_file_open(vm->log_fd, FILE_SHIM_LOG);

    if (fd >= 0 && dup2(fd, STDERR_FILENO) >= 0)
        log_open("holdfast-shim", LOG_LEVEL_INFO);
}

static void on_sync(struct ev_loop *ev, ev_io *w, int revents)
{
    struct handshake *h = container_of(w, struct handshake, io);
    char answer = 0;
    ssize_t n = read(arg_sync_fd, &answer, 1);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    ev_io_stop(ev, w);
    arg_sync_fd = fd_close(arg_sync_fd);
    if (n == 1 && answer == LAUNCH_GO) {
        if (!arg_adopt)
            vm_handle(h->vm, VM_GO, NULL);
        return;
    }
    if (arg_adopt) /* QEMU runs already: there is nothing to call off */
        return;
    log_vm_warning(arg_name, "whoever started this shim is gone before it said go; nothing was started");
    vm_abandon(h->vm);
    loop_stop(h->vm->loop, 1);
}

static int say_ready(struct handshake *h)
{
    const char ready = LAUNCH_READY;

    if (arg_sync_fd < 0)
        return 0;
    FAILPOINT("shim.before-ready");
    if (fd_write_all(arg_sync_fd, &ready, 1) < 0 || fd_set_nonblock(arg_sync_fd, true) < 0)
        return -EPIPE;
    FAILPOINT("shim.after-ready");
    ev_io_init(&h->io, on_sync, arg_sync_fd, EV_READ);
    ev_io_start(loop_ev(h->vm->loop), &h->io);
    return 0;
}

static int fail(const struct err *err)
{
    if (arg_sync_fd >= 0) {
        (void)fd_write_all(arg_sync_fd, err->text, strlen(err->text));
        (void)fd_write_all(arg_sync_fd, "\n", 1);
    }
    log_vm_error(arg_name, "%s", err->text);
    return 1;
}

static int run(void)
{
    auto_plan struct plan plan = { 0 };
    auto_loop struct loop *loop = NULL;
    auto_vm struct vm *vm = NULL;
    struct handshake handshake = { 0 };
    struct err err = ERR_INIT;
    int r = arg_foreign ? take_foreign(&err) : 0;

    if (r >= 0)
        r = read_plan(&plan, &err);
    if (r >= 0)
        r = privileges_drop(&plan, &err);
    if (r < 0)
        return fail(&err);
    r = loop_new(&loop);
    if (r < 0) {
        err_set_errno(&err, -r, "no-loop", "can't make an event loop");
        return fail(&err);
    }
    if (vm_new_take(loop, &plan, arg_adopt, &vm, &err) < 0)
        return fail(&err);
    redirect_log(vm);
    vm_logs_start(vm);
    if (arg_adopt && vm_adopt(vm, &err) < 0) {
        (void)unlinkat(vm->run_fd, FILE_SHIM_SOCKET, 0);
        return fail(&err);
    }
    handshake.vm = vm;
    if (say_ready(&handshake) < 0 && !arg_adopt) { /* QEMU needs a supervisor, whether or not anybody still waits for one */
        vm_abandon(vm);
        return 1;
    }
    (void)malloc_trim(0);
    return loop_run(loop);
}

int main(int argc, char **argv)
{
    int keep[2], r = parse_arguments(argc, argv);

    if (r >= 0)
        return r;
    keep[0] = arg_plan_fd;
    keep[1] = arg_sync_fd;
    signals_reset();
    (void)signal(SIGPIPE, SIG_IGN);
    (void)umask(027);
    if (fd_ensure_stdio() < 0 || fd_close_others(keep, ARRAY_LEN(keep)) < 0 || chdir("/") < 0)
        return 1;
    log_open("holdfast-shim", LOG_LEVEL_INFO);
    /* One small arena: a shim is to cost little, and its threads (the pager) allocate next to nothing. */
    (void)mallopt(M_ARENA_MAX, 1);
    (void)mallopt(M_TRIM_THRESHOLD, 64 * 1024);
    return run();
}
