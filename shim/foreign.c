#include "shim/foreign.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/failpoint.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/pidref.h"
#include "lib/base/strv.h"
#include "proto/exit.h"
#include "proto/launch.h"
#include "proto/status.h"
#include "shim/foreign_qmp.h"
#include "shim/vm.h"

enum { CMDLINE_MAX = 256 * 1024, FOLDER_MODE = 0750 };

#define LOCK_NAME "holdfast-vm-lock" /* of the descriptor, in QEMU */
#define LOG_SIZE (UINT64_C(16) << 20)

/* What is made, so that it can be undone. */
struct adoption {
    const struct foreign *f;
    struct pidref qemu;
    struct talk *talk;
    uint64_t ram_size, incarnation;
    int state; /* enum vm_state */
    int run_fd, lock_fd;
    bool made_run_dir, may_write, handed_over;
};

static int proc_path(pid_t pid, const char *what, char **ret_path) { return str_format(ret_path, "/proc/%d/%s", (int)pid, what); }

/* Calls `each` for what every descriptor of the process is, until it returns something else than 0. */
static int each_fd(pid_t pid, int (*each)(int dirfd, const char *fd, void *arg), void *arg)
{
    auto_free char *path = NULL;
    const struct dirent *entry;
    DIR *dir;
    int r = proc_path(pid, "fd", &path);

    if (r < 0)
        return r;
    dir = opendir(path);
    if (!dir)
        return -errno;
    while (r == 0 && (errno = 0, entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            r = each(dirfd(dir), entry->d_name, arg);
    if (r == 0 && errno)
        r = -errno;
    closedir(dir);
    return r;
}

/* 1: it holds a VM's lock. */
static int is_vm_lock(int dirfd, const char *fd, void *arg)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(dirfd, fd, target, sizeof(target) - 1);
    const char *slash;

    if (n < 0)
        return 0; /* closed meanwhile */
    target[n] = '\0';
    slash = strrchr(target, '/');
    return slash && streq(slash + 1, FILE_VM_LOCK);
}

/* 1: it is the file of the struct stat. */
static int is_file(int dirfd, const char *fd, void *arg)
{
    const struct stat *wanted = arg;
    struct stat st;

    return fstatat(dirfd, fd, &st, 0) == 0 && st.st_dev == wanted->st_dev && st.st_ino == wanted->st_ino;
}

static int look_at_process(struct adoption *a, struct err *err)
{
    int pid = (int)a->f->pid, r = pidref_open(a->f->pid, &a->qemu);

    if (r < 0)
        return err_set_errno(err, -r, "no-process", "process %d", pid);
    r = each_fd(a->f->pid, is_vm_lock, NULL);
    if (r > 0)
        return err_set(err, EEXIST, "known", "process %d is a VM of Holdfast already (see: vmctl shim list)", pid);
    return r < 0 ? err_set_errno(err, -r, "no-process", "can't look at process %d (are you root, or its user?)", pid) : 0;
}

static int ask_qemu(struct adoption *a, struct err *err)
{
    auto_json json_t *memory = NULL, *status = NULL;
    const char *state;
    int r = talk_open(a->f->qmp, &a->talk, err);

    if (r >= 0)
        r = talk_call_consume(a->talk, "query-memory-size-summary", NULL, -1, &memory, err);
    if (r >= 0)
        r = talk_call_consume(a->talk, "query-status", NULL, -1, &status, err);
    if (r < 0)
        return r;
    a->ram_size = (uint64_t)(json_integer_value(json_object_get(memory, "base-memory")) +
                             json_integer_value(json_object_get(memory, "plugged-memory")));
    state = json_string_value(json_object_get(status, "status"));
    if (!streq_opt(state, "running") && !streq_opt(state, "paused"))
        return err_set(err, EBUSY, "wrong-state", "QEMU says that it is \"%s\": only a guest that runs or is paused can be taken over",
                       state ? state : "?");
    a->state = streq(state, "running") ? STATE_RUNNING : STATE_PAUSED;
    return 0;
}

/* One more than the last life of that name. */
static int count_lives(struct adoption *a, int state_fd, struct err *err)
{
    auto_exit struct exit_record exit = { 0 };
    auto_json json_t *json = NULL;
    auto_free char *text = NULL;
    size_t len;
    int r = file_read(state_fd, FILE_LAST_EXIT, RECORD_MAX, &text, &len);

    a->incarnation = 1;
    if (r == -ENOENT)
        return 0;
    if (r >= 0)
        r = json_parse(text, len, &json, err);
    if (r >= 0)
        r = exit_from_json(json, &exit, err);
    if (r < 0)
        return err_from(err, r, "the record of its last exit");
    a->incarnation = exit.incarnation + 1;
    return 0;
}

/* The folder of an earlier life is as good as a new one, once that life is over and explained: both locks are free, and no record is left. */
static int take_run_folder(struct adoption *a, struct err *err)
{
    const char *run_dir = a->f->run_dir;

    a->made_run_dir = mkdir(run_dir, FOLDER_MODE) >= 0;
    if (!a->made_run_dir && errno != EEXIST)
        return err_set_errno(err, errno, "no-folder", "%s", run_dir);
    a->run_fd = dir_open(AT_FDCWD, run_dir);
    if (a->run_fd < 0)
        return err_set_errno(err, -a->run_fd, "no-folder", "%s", run_dir);
    a->lock_fd = lock_take(a->run_fd, FILE_VM_LOCK);
    if (a->lock_fd == -EWOULDBLOCK || lock_is_held(a->run_fd, FILE_SHIM_LOCK) != 0)
        return err_set(err, EEXIST, "taken", "a VM %s runs already: choose another name", a->f->name);
    if (a->lock_fd < 0)
        return err_set_errno(err, -a->lock_fd, "no-lock", "can't lock %s/%s", run_dir, FILE_VM_LOCK);
    if (faccessat(a->run_fd, FILE_STATUS, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
        return err_set(err, EEXIST, "taken",
                       "the end of an earlier VM %s isn't recorded yet: start a manager first, or choose another name", a->f->name);
    a->may_write = true;
    (void)unlinkat(a->run_fd, FILE_QMP_SOCKET, 0);
    return 0;
}

/* The name must be free: no VM runs by it, and no manager has a wish for one. */
static int make_folders(struct adoption *a, struct err *err)
{
    const struct foreign *f = a->f;
    auto_free char *parent = strndup(f->run_dir, (size_t)(strrchr(f->run_dir, '/') - f->run_dir));
    auto_fd int state_fd = -1;
    int r = parent ? dir_make(parent, FOLDER_MODE, err) : -ENOMEM;

    if (r >= 0)
        r = dir_make(f->state_dir, FOLDER_MODE, err);
    if (r >= 0)
        r = dir_make(f->log_dir, FOLDER_MODE, err);
    if (r < 0)
        return err_from(err, r, "can't make the folders");
    state_fd = dir_open(AT_FDCWD, f->state_dir);
    if (state_fd < 0)
        return err_set_errno(err, -state_fd, "no-folder", "%s", f->state_dir);
    if (faccessat(state_fd, FILE_WANTED, F_OK, 0) == 0)
        return err_set(err, EEXIST, "taken", "there is a VM %s already: choose another name, or delete that one first", f->name);
    r = take_run_folder(a, err);
    return r < 0 ? r : count_lives(a, state_fd, err);
}

static int hand_lock_over(struct adoption *a, struct err *err)
{
    struct stat st;
    int r;

    if (fstat(a->lock_fd, &st) < 0)
        return err_set_errno(err, errno, "no-lock", "%s/%s", a->f->run_dir, FILE_VM_LOCK);
    a->handed_over = true; /* it may be, from here on */
    r = talk_call_consume(a->talk, "getfd", json_pack("{s:s}", "fdname", LOCK_NAME), a->lock_fd, NULL, err);
    if (r < 0)
        return r;
    FAILPOINT("shim.foreign-after-lock");
    r = each_fd(a->f->pid, is_file, &st);
    if (r < 0)
        return err_set_errno(err, -r, "no-proof", "can't look at process %d", (int)a->f->pid);
    return r > 0 ? 0
                 : err_set(err, ESRCH, "other-process", "%s is not the monitor of process %d, but of another", a->f->qmp, (int)a->f->pid);
}

/* What it was started with, as far as that can be known. Nobody starts it again by this. */
static int read_command(pid_t pid, char **ret_path, struct strv *argv)
{
    auto_free char *exe = NULL, *cmdline = NULL, *text = NULL;
    char target[PATH_MAX];
    size_t len, at = 0;
    ssize_t n;
    int r = proc_path(pid, "exe", &exe);

    if (r < 0 || (r = proc_path(pid, "cmdline", &cmdline)) < 0)
        return r;
    n = readlink(exe, target, sizeof(target) - 1);
    if (n < 0)
        return -errno;
    target[n] = '\0';
    r = file_read(AT_FDCWD, cmdline, CMDLINE_MAX, &text, &len);
    for (; r >= 0 && at < len; at += strlen(text + at) + 1)
        strv_push(argv, text + at);
    if (r < 0 || argv->failed || argv->n == 0)
        return r < 0 ? r : -ENOMEM;
    return str_set(ret_path, target);
}

static int write_plan(const struct adoption *a, struct err *err)
{
    static const struct plan_rung ladder[] = {
        { .kind = RUNG_ACPI, .wait_ms = 60 * 1000, .repeat_ms = 10 * 1000 },
        { .kind = RUNG_QUIT, .wait_ms = 5 * 1000 },
        { .kind = RUNG_TERM, .wait_ms = 5 * 1000 },
        { .kind = RUNG_KILL },
    };
    auto_plan struct plan plan = { .schema = PLAN_SCHEMA, .restart.policy = RESTART_NEVER, .logs = { .max_size = LOG_SIZE, .keep = 1 } };
    struct strv argv = { 0 };
    int r = read_command(a->f->pid, &plan.qemu.path, &argv);

    plan.qemu.argv = argv.items;
    plan.ram.size = a->ram_size; /* its own: nothing of ours serves or saves it */
    if (r >= 0 && ((r = str_set(&plan.name, a->f->name)) < 0 || (r = str_set(&plan.run_dir, a->f->run_dir)) < 0 ||
                   (r = str_set(&plan.state_dir, a->f->state_dir)) < 0))
        return r;
    if (r >= 0)
        r = str_set(&plan.log_dir, a->f->log_dir);
    plan.stop = r < 0 ? NULL : calloc(ARRAY_LEN(ladder), sizeof(*plan.stop));
    if (plan.stop) {
        memcpy(plan.stop, ladder, sizeof(ladder));
        plan.n_stop = ARRAY_LEN(ladder);
        r = vm_write_record(a->run_fd, FILE_PLAN, &plan_type, &plan, FILE_ATOMIC);
    }
    return r < 0       ? err_set_errno(err, -r, "no-plan", "can't write %s/%s", a->f->run_dir, FILE_PLAN)
           : plan.stop ? 0
                       : err_set(err, ENOMEM, "no-memory", "out of memory");
}

/* Real time at which it was started, from its start time in ticks since boot. */
static uint64_t started_at(const struct adoption *a)
{
    uint64_t ticks = (uint64_t)sysconf(_SC_CLK_TCK), born_us = a->qemu.start_time * (UINT64_C(1000000) / (ticks ? ticks : 100));

    return clock_real_us() - (clock_boottime_us() - born_us);
}

static int write_status(const struct adoption *a, struct err *err)
{
    char boot_id[BOOT_ID_LEN + 1];
    auto_status struct status status = {
        .schema = STATUS_SCHEMA,
        .incarnation = a->incarnation,
        .state = a->state,
        .since = clock_real_us(),
        .started = started_at(a),
        .qemu = { (uint64_t)a->f->pid, a->qemu.start_time },
    };
    int r = boot_id_read(boot_id);

    if (r >= 0 && (r = str_set(&status.name, a->f->name)) >= 0 && (r = str_set(&status.boot_id, boot_id)) >= 0)
        r = vm_write_record(a->run_fd, FILE_STATUS, &status_type, &status, FILE_ATOMIC);
    return r < 0 ? err_set_errno(err, -r, "no-record", "can't write %s/%s", a->f->run_dir, FILE_STATUS) : 0;
}

static int take_over(struct adoption *a, struct err *err)
{
    int r = look_at_process(a, err);

    if (r < 0 || (r = ask_qemu(a, err)) < 0 || (r = make_folders(a, err)) < 0 || (r = hand_lock_over(a, err)) < 0 ||
        (r = write_plan(a, err)) < 0)
        return r;
    if (symlinkat(a->f->qmp, a->run_fd, FILE_QMP_SOCKET) < 0)
        return err_set_errno(err, errno, "no-monitor", "can't link %s/%s", a->f->run_dir, FILE_QMP_SOCKET);
    /* Last: with it the QEMU is known. */
    return write_status(a, err);
}

/* A lock that QEMU keeps says that a VM of that name lives: it goes first. */
static void undo(struct adoption *a)
{
    static const char *const files[] = { FILE_STATUS, FILE_PLAN, FILE_QMP_SOCKET };

    if (a->handed_over)
        (void)talk_call_consume(a->talk, "closefd", json_pack("{s:s}", "fdname", LOCK_NAME), -1, NULL, NULL);
    for (size_t i = 0; a->may_write && i < ARRAY_LEN(files); i++)
        (void)unlinkat(a->run_fd, files[i], 0);
    if (a->made_run_dir) {
        (void)unlinkat(a->run_fd, FILE_VM_LOCK, 0);
        (void)rmdir(a->f->run_dir); /* not if somebody has come in */
    }
}

int foreign_prepare(const struct foreign *f, struct err *err)
{
    struct adoption a = { .f = f, .qemu = PIDREF_NONE, .run_fd = -1, .lock_fd = -1 };
    int r = take_over(&a, err);

    if (r < 0)
        undo(&a);
    talk_free(a.talk);
    fd_close(a.lock_fd);
    fd_close(a.run_fd);
    pidref_done(&a.qemu);
    return r;
}
