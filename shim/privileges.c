#include "shim/privileges.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/parse.h"
#include "shim/qemu_files.h"

/* Each with what stops working without it. */
static const struct {
    cap_value_t cap;
    enum { ALWAYS, WITH_TAP } when;
} shim_caps[] = {
    { CAP_KILL, ALWAYS },         /* stopping a QEMU that is another user's */
    { CAP_SETUID, ALWAYS },       /* starting one */
    { CAP_SETGID, ALWAYS },       /* likewise: its groups */
    { CAP_SETPCAP, ALWAYS },      /* emptying its bounding set */
    { CAP_DAC_OVERRIDE, ALWAYS }, /* opening disks, kernels and devices for it, wherever the operator keeps them and whosever they are */
    { CAP_SYS_PTRACE, ALWAYS },   /* pidfd_getfd(2) on an adopted QEMU, and its /proc/PID */
    { CAP_NET_ADMIN, WITH_TAP },  /* TUNSETIFF on a tap that isn't our own */
};

enum {
    /* A guest's memory is worth more to the OOM killer than a megabyte that would leave the guest without a supervisor. */
    SHIM_OOM_SCORE_ADJ = -900,
    QEMU_NOFILE = 65536, /* connections of a user network, disks and devices; whatever whoever started us had */
};

/* Without EPERM, which means that we never had it: a container's root, or no root at all. */
static int drop_bounding(const cap_value_t *kept, int n)
{
    for (cap_value_t cap = 0; cap < cap_max_bits(); cap++) {
        bool keep = false;

        for (int i = 0; i < n; i++)
            keep = keep || kept[i] == cap;
        if (!keep && prctl(PR_CAPBSET_DROP, (unsigned long)cap, 0, 0, 0) < 0 && errno != EPERM)
            return -errno;
    }
    return 0;
}

/* As text, for /proc/self/oom_score_adj; a failure is no reason not to run. */
static void set_oom_score_adj(const char *text)
{
    auto_fd int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        return;
}

/* For QEMU to inherit; it can lower its limits by itself, not raise them. */
static void raise_memlock(const struct plan *plan)
{
    struct rlimit limit;

    if (plan->qemu.memlock == 0 || getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_max >= plan->qemu.memlock)
        return;
    limit.rlim_max = plan->qemu.memlock;
    (void)setrlimit(RLIMIT_MEMLOCK, &limit); /* QEMU's child says so when that isn't allowed */
}

static bool has_tap(const struct plan *plan)
{
    for (size_t i = 0; i < plan->qemu.n_files; i++)
        if (plan->qemu.files[i].kind == FILE_TAP)
            return true;
    return false;
}

/* What of the plan's list this host knows. Returns how many, or -EINVAL. */
static int parse_caps(const struct plan *plan, cap_value_t *caps, size_t max)
{
    int n = 0;

    for (size_t i = 0; plan->qemu.capabilities && plan->qemu.capabilities[i]; i++) {
        if ((size_t)n == max || cap_from_name(plan->qemu.capabilities[i], &caps[n]) < 0)
            return -EINVAL;
        n++;
    }
    return n;
}

/* Only what we have, or capset(2) refuses it all. */
static int set_caps(const cap_value_t *caps, int n)
{
    cap_t now = cap_get_proc(), next = cap_init();
    cap_flag_value_t has;
    int r = now && next ? 0 : -ENOMEM;

    for (int i = 0; i < n && r >= 0; i++) {
        if (cap_get_flag(now, caps[i], CAP_PERMITTED, &has) < 0)
            r = -errno;
        else if (has == CAP_SET && (cap_set_flag(next, CAP_PERMITTED, 1, &caps[i], CAP_SET) < 0 ||
                                    cap_set_flag(next, CAP_EFFECTIVE, 1, &caps[i], CAP_SET) < 0))
            r = -errno;
    }
    if (r >= 0 && cap_set_proc(next) < 0)
        r = -errno;
    cap_free(now);
    cap_free(next);
    return r;
}

int privileges_drop(const struct plan *plan, struct err *err)
{
    char oom[16];
    cap_value_t kept[ARRAY_LEN(shim_caps) + QEMU_CAPS_MAX];
    int n = parse_caps(plan, kept, QEMU_CAPS_MAX); /* what we pass on we must have */
    int r = n;

    if (r < 0)
        return err_set(err, EINVAL, "bad-plan", "the plan names a capability that this host doesn't know");
    (void)snprintf(oom, sizeof(oom), "%d", SHIM_OOM_SCORE_ADJ);
    set_oom_score_adj(oom); /* while we have CAP_SYS_RESOURCE, … */
    raise_memlock(plan);    /* … which this needs too */
    for (size_t i = 0; i < ARRAY_LEN(shim_caps); i++)
        if (shim_caps[i].when == ALWAYS || has_tap(plan))
            kept[n++] = shim_caps[i].cap;
    r = drop_bounding(kept, n);
    if (r >= 0)
        r = set_caps(kept, n);
    /* Nothing we start is to be more than we are by a bit in its file. */
    if (r >= 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        r = -errno;
    return r < 0 ? err_set_errno(err, -r, "no-privileges", "can't give up privileges") : 0;
}

int qemu_privileges_init(struct qemu_privileges *p, const struct plan *plan, const struct command *command)
{
    uint64_t n;

    *p = (struct qemu_privileges){ .plan = plan, .command = command };
    for (size_t i = 0; plan->qemu.groups && plan->qemu.groups[i]; i++) {
        if (i == PLAN_GROUPS_MAX || parse_u64(plan->qemu.groups[i], 0, UINT32_MAX - 1, &n) < 0)
            return -EINVAL;
        p->groups[p->n_groups++] = (uint32_t)n;
    }
    p->n_kept = parse_caps(plan, p->kept, ARRAY_LEN(p->kept));
    if (p->n_kept < 0)
        return p->n_kept;
    p->caps = cap_init();
    if (!p->caps)
        return -ENOMEM;
    for (cap_flag_t flag = 0; p->n_kept > 0 && flag <= CAP_INHERITABLE; flag++)
        if (cap_set_flag(p->caps, flag, p->n_kept, p->kept, CAP_SET) < 0)
            return -errno;
    return 0;
}

void qemu_privileges_done(struct qemu_privileges *p)
{
    cap_free(p->caps);
    p->caps = NULL;
}

/* ---- between fork and exec: async-signal-safe calls only ---- */

static void say(const char *s)
{
    if (s && write(STDERR_FILENO, s, strlen(s)) < 0)
        return; /* nobody left to tell */
}

static _Noreturn void give_up(const char *what, const char *which, int r)
{
    const char *text = strerrordesc_np(-r);

    say("can't ");
    say(what);
    say(which);
    say(": ");
    say(text ? text : "unknown error");
    say("\n");
    _exit(126);
}

static void set_limits(void)
{
    const struct rlimit none = { 0 };
    struct rlimit files;

    (void)setrlimit(RLIMIT_CORE, &none); /* the guest's memory, with all its secrets, has no business in a core file */
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        if (files.rlim_max > QEMU_NOFILE)
            files.rlim_max = QEMU_NOFILE;
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
}

/* Not more than it needs: memory that is locked is lost to all others. Where it may not have that much, as much as it may. */
static bool set_memlock(uint64_t bytes)
{
    struct rlimit limit;

    if (bytes == 0)
        return true;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
        return false;
    if (limit.rlim_max > bytes)
        limit.rlim_max = bytes;
    limit.rlim_cur = limit.rlim_max;
    return setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_max == bytes;
}

/* By syscall(2): libc's wrappers change all threads it knows of, and in this child, which clone3(2) made, it knows of threads that aren't. */
static int become(const struct qemu_privileges *p)
{
    const uid_t uid = (uid_t)p->plan->qemu.uid;
    const gid_t gid = (gid_t)p->plan->qemu.gid;
    int r = drop_bounding(p->kept, p->n_kept);

    if (r < 0)
        return r;
    if (p->n_kept > 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        return -errno;
    if (syscall(SYS_setgroups, p->n_groups, p->groups) < 0 || syscall(SYS_setresgid, gid, gid, gid) < 0 ||
        syscall(SYS_setresuid, uid, uid, uid) < 0)
        return -errno;
    if (cap_set_proc(p->caps) < 0)
        return -errno;
    /* Ambient, since QEMU's file carries none that an exec could add to. */
    for (int i = 0; i < p->n_kept; i++)
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, (unsigned long)p->kept[i], 0, 0) < 0)
            return -errno;
    return 0;
}

/* A folder above QEMU's may be closed to its user (a build below /root): its own is then entered by a descriptor. -1: no such folder. */
static int open_folder_of(const char *path)
{
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    size_t len = slash ? (size_t)(slash - path) + 1 : 0;

    if (len == 0 || len >= sizeof(folder))
        return -1;
    memcpy(folder, path, len);
    folder[len] = '\0';
    return open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
}

/* Returns when the path is good, for spawn_child() to execute; else it is done here or fails. */
static void execute_from(int folder, const struct qemu_privileges *p)
{
    const struct plan *plan = p->plan;
    const char *path = plan->qemu.path;

    if (access(path, X_OK) == 0)
        return;
    if (errno == EACCES && folder >= 0)
        (void)execveat(folder, strrchr(path, '/') + 1, strv_argv(&p->command->argv), strv_argv(&p->command->env), 0);
    give_up(plan->qemu.user ? "execute, as QEMU's user, " : "execute ", path, -errno);
}

int qemu_child_prepare(void *arg)
{
    const struct qemu_privileges *p = arg;
    const struct plan *plan = p->plan;
    const struct command *c = p->command;
    int folder = open_folder_of(plan->qemu.path), r;

    for (size_t i = 0; i < c->n_files; i++) {
        r = qemu_file_open(&c->files[i]);
        if (r < 0)
            give_up("open ", c->files[i].path, r);
    }
    set_limits();
    if (!set_memlock(plan->qemu.memlock)) /* QEMU will say that it can't map memory; with this beside it one knows why */
        say("can't raise the limit on locked memory (RLIMIT_MEMLOCK) to what passed-through devices need\n");
    set_oom_score_adj("0"); /* ours is for the shim alone */
    (void)umask(077);       /* what QEMU makes (a dump, a snapshot by QMP) is nobody else's */
    if (plan->qemu.user) {
        r = become(p);
        if (r < 0)
            give_up("become user ", plan->qemu.user, r);
    }
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        give_up("set no_new_privs", "", -errno);
    /* Nobody misses it, and nobody would take its shim's place. After the change of user, which clears it. */
    if (plan->restore.ephemeral && prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        give_up("have it end with its shim", "", -errno);
    for (size_t i = 0; i < c->n_files; i++) {
        r = qemu_file_make_reopenable(&c->files[i]);
        if (r < 0)
            give_up("make a copy for QEMU's user of ", c->files[i].path, r);
    }
    execute_from(folder, p);
    return 0;
}

int helper_child_prepare(void *unused)
{
    set_oom_score_adj("0");
    return 0;
}
