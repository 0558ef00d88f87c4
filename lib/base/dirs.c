#include "lib/base/dirs.h"

#include <errno.h>
#include <pwd.h>
#include <sys/stat.h>

/* An absolute copy without a slash at its end. */
static int set_absolute(char **slot, const char *path)
{
    auto_free char *absolute = NULL;
    if (path[0] == '/') {
        absolute = strdup(path);
    } else {
        auto_free char *cwd = getcwd(NULL, 0);
        if (!cwd)
            return -errno;
        if (str_format(&absolute, "%s/%s", streq(cwd, "/") ? "" : cwd, path) < 0)
            return -ENOMEM;
    }
    if (!absolute)
        return -ENOMEM;
    for (size_t len = strlen(absolute); len > 1 && absolute[len - 1] == '/'; len--)
        absolute[len - 1] = '\0';
    free(*slot);
    *slot = steal_ptr(&absolute);
    return 0;
}

/* An environment variable that says something. */
static const char *env_text(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* XDG variables: "All paths … must be absolute. If … not … ignore it". */
static const char *env_xdg(const char *name)
{
    const char *value = env_text(name);
    return value && value[0] == '/' ? value : NULL;
}

static int home_folder(char **ret_home, struct err *err)
{
    const char *home = env_xdg("HOME");
    char buf[4096];
    struct passwd pw, *found = NULL;
    if (!home && getpwuid_r(geteuid(), &pw, buf, sizeof(buf), &found) == 0 && found && found->pw_dir[0] == '/')
        home = found->pw_dir;
    if (!home)
        return err_set(err, ENOENT, "no-home", "no home folder: set HOME, or HOLDFAST_STATE_DIR, HOLDFAST_LOG_DIR and HOLDFAST_CONFIG_DIR");
    return str_set(ret_home, home);
}

static int user_run_default(char **ret_path, struct err *err)
{
    const char *runtime = env_xdg("XDG_RUNTIME_DIR");
    if (runtime)
        return str_format(ret_path, "%s/holdfast", runtime);
    auto_free char *folder = NULL;
    if (str_format(&folder, "/run/user/%u", (unsigned)geteuid()) < 0)
        return -ENOMEM;
    struct stat st;
    if (stat(folder, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
        return err_set(err, ENOENT, "no-run-dir", "no run folder: neither XDG_RUNTIME_DIR nor %s is there; set HOLDFAST_RUN_DIR", folder);
    return str_format(ret_path, "%s/holdfast", folder);
}

/* BASE/SUFFIX where the XDG variable names BASE, else HOME/FALLBACK/SUFFIX. */
static int user_default(const char *variable, const char *fallback, const char *suffix, char **ret_path, struct err *err)
{
    const char *base = env_xdg(variable);
    if (base)
        return str_format(ret_path, "%s/%s", base, suffix);
    auto_free char *home = NULL;
    int r = home_folder(&home, err);
    return r < 0 ? r : str_format(ret_path, "%s/%s/%s", home, fallback, suffix);
}

static int user_state_default(char **ret_path, struct err *err)
{
    return user_default("XDG_STATE_HOME", ".local/state", "holdfast", ret_path, err);
}

static int user_log_default(char **ret_path, struct err *err)
{
    return user_default("XDG_STATE_HOME", ".local/state", "holdfast/log", ret_path, err);
}

static int user_config_default(char **ret_path, struct err *err)
{
    return user_default("XDG_CONFIG_HOME", ".config", "holdfast", ret_path, err);
}

static const struct folder {
    const char *variable;
    size_t offset;
    const char *root_default;
    int (*user_default)(char **ret_path, struct err *err);
} folders[] = {
    { "HOLDFAST_RUN_DIR", offsetof(struct dirs, run), "/run/holdfast", user_run_default },
    { "HOLDFAST_STATE_DIR", offsetof(struct dirs, state), "/var/lib/holdfast", user_state_default },
    { "HOLDFAST_LOG_DIR", offsetof(struct dirs, log), "/var/log/holdfast", user_log_default },
    { "HOLDFAST_CONFIG_DIR", offsetof(struct dirs, config), "/etc/holdfast", user_config_default },
};

static int resolve(const struct folder *folder, char **slot, struct err *err)
{
    if (*slot && !**slot)
        return err_set(err, EINVAL, "bad-path", "an empty folder name was given for what %s would set", folder->variable);
    if (*slot) {
        auto_free char *given = steal_ptr(slot);
        return set_absolute(slot, given);
    }
    const char *value = env_text(folder->variable);
    if (value)
        return set_absolute(slot, value);
    if (geteuid() == 0)
        return str_set(slot, folder->root_default);
    auto_free char *path = NULL;
    int r = folder->user_default(&path, err);
    return r < 0 ? r : set_absolute(slot, path);
}

int dirs_resolve(struct dirs *d, struct err *err)
{
    for (size_t i = 0; i < ARRAY_LEN(folders); i++) {
        int r = resolve(&folders[i], (char **)((char *)d + folders[i].offset), err);
        if (r < 0)
            return err_from(err, r, "cannot resolve the folders");
    }
    return 0;
}

void dirs_clear(struct dirs *d)
{
    free(d->run);
    free(d->state);
    free(d->log);
    free(d->config);
    *d = (struct dirs){ 0 };
}
