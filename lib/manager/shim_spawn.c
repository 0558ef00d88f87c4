#include "lib/manager/shim_spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "lib/base/fd.h"
#include "lib/base/spawn.h"
#include "lib/base/strv.h"
#include "lib/manager/state.h"

enum {
    SHIM_PLAN_FD = 3,
    SHIM_SYNC_FD = 4,
};

/* Between fork and exec: our own limit on fds is for a thousand shims, not for one. */
static int restore_limit(void *arg)
{
    const rlim_t *soft = arg;
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return -errno;
    limit.rlim_cur = *soft;
    return setrlimit(RLIMIT_NOFILE, &limit) < 0 ? -errno : 0;
}

/* A shim's environment: what it may need, and nothing that happened to be in ours. */
static void build_env(struct strv *env)
{
    static const char *const passed[] = { "PATH",         "TZ",           "HOLDFAST_LOG_LEVEL", "HOLDFAST_FAILPOINT",
                                          "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS",      "TSAN_OPTIONS" };

    strv_push(env, "LANG=C.UTF-8");
    for (size_t i = 0; i < ARRAY_LEN(passed); i++) {
        const char *value = getenv(passed[i]);

        if (value)
            strv_pushf(env, "%s=%s", passed[i], value);
    }
}

static int open_shim_log(int folder_fd)
{
    int fd = folder_fd < 0
                 ? -1
                 : openat(folder_fd, FILE_SHIM_LOG, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, FILE_MODE);

    return fd < 0 ? -errno : fd;
}

int shim_spawn(struct manager *m, const struct shim_spawn *what)
{
    auto_strv struct strv argv = { 0 }, env = { 0 };
    auto_fd int log_fd = open_shim_log(what->log_folder_fd);
    struct spawn_fd fds[3] = { { what->sync_fd, SHIM_SYNC_FD } };
    size_t n_fds = 1;

    if (log_fd >= 0) /* without a log rather than not at all */
        fds[n_fds++] = (struct spawn_fd){ log_fd, 2 };
    strv_push(&argv, m->shim_path);
    if (what->plan_fd >= 0) {
        fds[n_fds++] = (struct spawn_fd){ what->plan_fd, SHIM_PLAN_FD };
        strv_push(&argv, "--plan-fd");
        strv_pushf(&argv, "%d", SHIM_PLAN_FD);
    } else {
        strv_push(&argv, "--adopt");
        strv_push(&argv, "--run-dir");
        strv_pushf(&argv, "%s/" FOLDER_VMS "/%s", m->dirs.run, what->name);
    }
    strv_push(&argv, "--sync-fd");
    strv_pushf(&argv, "%d", SHIM_SYNC_FD);
    strv_push(&argv, what->name);
    build_env(&env);
    if (argv.failed || env.failed)
        return -ENOMEM;
    return spawn_detached(&(struct spawn){
        .path = m->shim_path,
        .argv = strv_argv(&argv),
        .env = strv_argv(&env),
        .fds = fds,
        .n_fds = n_fds,
        .go_fd = -1,
        .prepare = restore_limit,
        .prepare_arg = &m->nofile,
    });
}
