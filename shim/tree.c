#include "shim/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/parse.h"
#include "proto/launch.h"

enum { POLL_MS = 5, PROC_FILE_MAX = 64 * 1024 };

/* Where cgroup v2 is mounted: alone, or beside v1 on a hybrid host. */
static const char *const mounts[] = { CGROUP_MOUNT, CGROUP_MOUNT "/unified" };

static bool is_expected(const struct tree *t, pid_t pid)
{
    for (size_t i = 0; i < TREE_EXPECTED_MAX; i++)
        if (t->expected[i] == pid)
            return true;
    return false;
}

void tree_expect(struct tree *t, pid_t pid)
{
    for (size_t i = 0; i < TREE_EXPECTED_MAX; i++) {
        if (t->expected[i] == 0) {
            t->expected[i] = pid;
            return;
        }
    }
}

void tree_forget(struct tree *t, pid_t pid)
{
    for (size_t i = 0; i < TREE_EXPECTED_MAX; i++)
        if (t->expected[i] == pid)
            t->expected[i] = 0;
}

/* Our children, by /proc/self/task/TID/children (proc(5)); ours are all the main thread's or reparented to it. `each` returns the number to
 * add to the result. */
static int each_stray(struct tree *t, int (*each)(pid_t pid))
{
    auto_free char *text = NULL, *path = NULL;
    char *save, *end;
    uint64_t pid;
    size_t len;
    int n = 0;

    if (str_format(&path, "/proc/self/task/%d/children", (int)getpid()) < 0 || file_read(AT_FDCWD, path, PROC_FILE_MAX, &text, &len) < 0)
        return 0;
    for (save = text; *save; save = end) {
        end = save + strcspn(save, " ");
        if (*end)
            *end++ = '\0';
        if (parse_u64(save, 1, INT32_MAX, &pid) >= 0 && !is_expected(t, (pid_t)pid))
            n += each((pid_t)pid);
    }
    return n;
}

/* Reaps it if it is dead; 1 when it still lives. */
static int reap_stray(pid_t pid) { return waitpid(pid, NULL, WNOHANG) == 0; }

/* An unreaped child's pid is its own, so a plain kill can't hit another. */
static int kill_stray(pid_t pid)
{
    (void)kill(pid, SIGKILL);
    return reap_stray(pid);
}

static int cgroup_write(const struct tree *t, const char *file, const char *text)
{
    auto_free char *path = NULL;
    auto_fd int fd = -1;

    if (str_format(&path, "%s/%s", t->cgroup, file) < 0)
        return -ENOMEM;
    fd = open(path, O_WRONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
}

static bool cgroup_populated(const struct tree *t)
{
    auto_free char *path = NULL, *text = NULL;
    size_t len;

    if (!t->cgroup || str_format(&path, "%s/cgroup.events", t->cgroup) < 0 || file_read(AT_FDCWD, path, PROC_FILE_MAX, &text, &len) < 0)
        return false;
    return strstr(text, "populated 1") != NULL;
}

static void drop_cgroup(struct tree *t)
{
    free(steal_ptr(&t->cgroup));
    if (t->cgroup_fd > 0)
        fd_close(t->cgroup_fd);
    t->cgroup_fd = 0;
}

int tree_cgroup_fd(const struct tree *t) { return t->cgroup_fd; }

static void check_emptied(struct tree *t)
{
    if (!t->killing)
        return;
    if (each_stray(t, kill_stray) > 0 || cgroup_populated(t)) {
        ev_timer_again(loop_ev(t->loop), &t->poll);
        return;
    }
    t->killing = false;
    ev_timer_stop(loop_ev(t->loop), &t->poll);
    t->emptied(t->arg);
}

static void on_child(struct ev_loop *ev, ev_signal *w, int revents)
{
    struct tree *t = container_of(w, struct tree, child);

    (void)each_stray(t, reap_stray);
    check_emptied(t);
}

static void on_poll(struct ev_loop *ev, ev_timer *w, int revents) { check_emptied(container_of(w, struct tree, poll)); }

int tree_start(struct tree *t, struct loop *l, void (*emptied)(void *arg), void *arg)
{
    *t = (struct tree){ .loop = l, .emptied = emptied, .arg = arg };
    if (prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
        return -errno;
    ev_signal_init(&t->child, on_child, SIGCHLD);
    ev_signal_start(loop_ev(l), &t->child);
    ev_init(&t->poll, on_poll);
    t->poll.repeat = POLL_MS / 1000.0;
    return 0;
}

void tree_stop(struct tree *t)
{
    if (!t->loop)
        return;
    ev_signal_stop(loop_ev(t->loop), &t->child);
    ev_timer_stop(loop_ev(t->loop), &t->poll);
    drop_cgroup(t);
    t->loop = NULL;
}

void tree_kill(struct tree *t)
{
    t->killing = true;
    (void)tree_kill_cgroup(t);
    check_emptied(t);
}

/* The v2 line of /proc/PID/cgroup, "0::/path", as an absolute folder. */
static int cgroup_of(const char *pid, char **ret_folder)
{
    auto_free char *path = NULL, *text = NULL;
    struct stat st;
    char *line;
    size_t len;
    int r = str_format(&path, "/proc/%s/cgroup", pid);

    if (r < 0 || (r = file_read(AT_FDCWD, path, PROC_FILE_MAX, &text, &len)) < 0)
        return r;
    line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");
    if (!line)
        return -ENOENT;
    line = strchr(line, '/');
    if (!line)
        return -ENOENT;
    line[strcspn(line, "\n")] = '\0';
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        auto_free char *procs = NULL, *folder = NULL;

        if (str_format(&folder, "%s%s", mounts[i], streq(line, "/") ? "" : line) < 0 || str_format(&procs, "%s/cgroup.procs", folder) < 0)
            return -ENOMEM;
        if (stat(procs, &st) == 0) {
            *ret_folder = steal_ptr(&folder);
            return 0;
        }
    }
    return -ENOENT;
}

bool tree_kill_cgroup(struct tree *t) { return t->cgroup && cgroup_write(t, "cgroup.kill", "1") >= 0; }

static int take_folder(struct tree *t, char **folder_take)
{
    int fd = dir_open(AT_FDCWD, *folder_take);

    if (fd < 0)
        return fd;
    drop_cgroup(t);
    t->cgroup = steal_ptr(folder_take);
    t->cgroup_fd = fd;
    return 0;
}

int tree_make_cgroup(struct tree *t, const char *name, const char *run_dir)
{
    auto_free char *ours = NULL, *folder = NULL;
    int r;

    if (t->cgroup)
        return 0;
    if (cgroup_of("self", &ours) < 0)
        return 0;
    if (str_format(&folder, "%s/" CGROUP_PREFIX "%s.%08x", ours, name, (unsigned)hash_bytes(HASH_BEGIN, run_dir, strlen(run_dir))) < 0)
        return -ENOMEM;
    if (mkdir(folder, 0755) < 0 && errno != EEXIST)
        return 0;
    r = take_folder(t, &folder);
    if (r >= 0 && cgroup_populated(t))
        (void)tree_kill_cgroup(t);
    return r;
}

int tree_take_cgroup(struct tree *t, const char *folder)
{
    auto_free char *copy = NULL;

    /* A record is only a file: nothing but a cgroup of a VM is ever taken, and killed one day. */
    if (!folder || !has_prefix(folder, CGROUP_MOUNT "/") || strstr(folder, "/../") || !strstr(folder, "/" CGROUP_PREFIX))
        return 0;
    if (str_format(&copy, "%s", folder) < 0)
        return -ENOMEM;
    (void)take_folder(t, &copy); /* gone by now: there was nothing left in it */
    return 0;
}

void tree_remove_cgroup(struct tree *t)
{
    if (t->cgroup)
        (void)rmdir(t->cgroup);
    drop_cgroup(t);
}

int tree_add(struct tree *t, pid_t pid)
{
    auto_free char *text = NULL;

    if (!t->cgroup)
        return 0;
    return str_format(&text, "%d", (int)pid) < 0 ? -ENOMEM : cgroup_write(t, "cgroup.procs", text);
}
