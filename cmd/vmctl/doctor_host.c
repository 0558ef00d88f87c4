/* The host as the checks see it: files and programs below a root, VMs by their records and by /proc. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "cmd/vmctl/doctor.h"
#include "cmd/vmctl/output.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/parse.h"
#include "lib/base/spawn.h"
#include "proto/launch.h"

enum {
    TEXT_MAX = 1024 * 1024,
    PROGRAM_TIMEOUT_MS = 10 * 1000,
    START_TIME_FIELD = 22, /* proc_pid_stat(5) */
    STATE_FIELD = 3,
};

char *doctor_path(const struct doctor *d, const char *fmt, ...)
{
    auto_free char *path = NULL;
    char *whole = NULL;
    va_list args;

    va_start(args, fmt);
    int r = vasprintf(&path, fmt, args);
    va_end(args);
    if (r < 0) {
        path = NULL;
        must(NULL);
    }
    if (str_format(&whole, "%s%s", d->root, path) < 0)
        must(NULL);
    return whole;
}

char *doctor_text(const struct doctor *d, const char *path)
{
    auto_free char *whole = doctor_path(d, "%s", path);
    char *text = NULL;
    size_t len;

    if (file_read(AT_FDCWD, whole, TEXT_MAX, &text, &len) < 0)
        return NULL;
    if (len > 0 && text[len - 1] == '\n')
        text[len - 1] = '\0';
    return text;
}

bool doctor_exists(const struct doctor *d, const char *path)
{
    auto_free char *whole = doctor_path(d, "%s", path);

    return access(whole, F_OK) == 0;
}

char *doctor_word(const char **at, const char *separators)
{
    const char *word = *at + strspn(*at, separators);
    size_t len = strcspn(word, separators);

    *at = word + len;
    return len ? must(strndup(word, len)) : NULL;
}

/* The first of several paths that can be executed, with the root. */
static char *find_program(const struct doctor *d, const char *programs)
{
    for (;;) {
        auto_free char *one = doctor_word(&programs, " "), *path = one ? doctor_path(d, "%s", one) : NULL;

        if (!one || access(path, X_OK) == 0)
            return steal_ptr(&path);
    }
}

char *doctor_output(const struct doctor *d, const char *programs, const char *const *words, bool *ret_found)
{
    auto_free char *path = find_program(d, programs);
    auto_strv struct strv argv = { 0 };
    struct spawn_output output = { 0 };
    char *text = NULL;

    *ret_found = path != NULL;
    if (!path)
        return NULL;
    strv_push(&argv, path);
    for (size_t i = 0; words[i]; i++)
        strv_push(&argv, words[i]);
    if (argv.failed)
        must(NULL);
    int r = spawn_capture(&(struct spawn){ .path = path, .argv = strv_argv(&argv), .env = environ, .go_fd = -1 }, PROGRAM_TIMEOUT_MS,
                          TEXT_MAX, &output);
    if (r < 0)
        return NULL;
    if (WIFEXITED(output.wstatus) && WEXITSTATUS(output.wstatus) == 0)
        text = steal_ptr(&output.out);
    spawn_output_done(&output);
    return text;
}

/* Word number `n`, from 1, of /proc/PID/stat; the second, which may hold anything, counts as one. */
static const char *stat_field(const char *stat, unsigned n)
{
    const char *at = strrchr(stat, ')');

    for (unsigned i = 2; at && i < n; i++) {
        at = strchr(at, ' ');
        at = at ? at + 1 : NULL;
    }
    return at;
}

/* Whether the process of a record lives: there, the same one, and no zombie. */
static bool process_lives(const struct doctor *d, const struct process_id *process)
{
    auto_free char *path = NULL, *stat = NULL, *start = NULL;
    uint64_t ticks;

    if (!process->pid || str_format(&path, "/proc/%" PRIu64 "/stat", process->pid) < 0)
        return false;
    stat = doctor_text(d, path);
    const char *field = stat ? stat_field(stat, START_TIME_FIELD) : NULL, *state = stat ? stat_field(stat, STATE_FIELD) : NULL;
    if (!field || !state || *state == 'Z' || *state == 'X')
        return false;
    start = must(strndup(field, strcspn(field, " ")));
    return parse_u64(start, 0, UINT64_MAX, &ticks) >= 0 && ticks == process->start_time;
}

/* The path behind `hierarchy` in the text of /proc/PID/cgroup, malloc'ed; NULL: none. */
static char *cgroup_in(const char *text, const char *hierarchy)
{
    const char *at = text ? strstr(text, hierarchy) : NULL;

    return at ? must(strndup(at + strlen(hierarchy), strcspn(at + strlen(hierarchy), "\n"))) : NULL;
}

/* Where systemd has it, cgroups(7): in v2; where v1 is beside that, in both alike; with v1 alone in a hierarchy of its own. The root of one means
 * that it isn't the one in use. */
static char *read_cgroup(const struct doctor *d, pid_t pid)
{
    auto_free char *path = NULL, *text = NULL, *unified = NULL, *own = NULL;

    if (str_format(&path, "/proc/%d/cgroup", (int)pid) < 0)
        must(NULL);
    text = doctor_text(d, path);
    unified = cgroup_in(text, "0::");
    own = cgroup_in(text, ":name=systemd:");
    return unified && (!streq(unified, "/") || !own) ? steal_ptr(&unified) : steal_ptr(&own);
}

static void read_vm(const struct doctor *d, const char *boot_id, struct doctor_vm *vm)
{
    auto_free char *path = NULL, *text = NULL;
    auto_json json_t *json = NULL;

    if (str_format(&path, "%s/" FOLDER_VMS "/%s/" FILE_STATUS, d->in->dirs.run, vm->name) < 0)
        must(NULL);
    text = doctor_text(d, path);
    if (!text || json_parse(text, strlen(text), &json, NULL) < 0 || status_from_json(json, &vm->status, NULL) < 0)
        return;
    vm->readable = true;
    if (boot_id && !streq(boot_id, vm->status.boot_id))
        return;
    vm->shim_lives = process_lives(d, &vm->status.shim);
    vm->qemu_lives = process_lives(d, &vm->status.qemu);
    if (vm->shim_lives)
        vm->shim_cgroup = read_cgroup(d, (pid_t)vm->status.shim.pid);
    if (vm->qemu_lives)
        vm->qemu_cgroup = read_cgroup(d, (pid_t)vm->status.qemu.pid);
}

static int folder_filter(const struct dirent *e) { return name_is_valid(e->d_name); }

static void read_vms(struct doctor *d)
{
    auto_free char *folder = doctor_path(d, "%s/" FOLDER_VMS, d->in->dirs.run), *boot_id = NULL;
    struct dirent **entries = NULL;
    int n = scandir(folder, &entries, folder_filter, versionsort);

    if (n <= 0) {
        free(entries);
        return;
    }
    boot_id = doctor_text(d, "/proc/sys/kernel/random/boot_id");
    d->vms = must(calloc((size_t)n, sizeof(*d->vms)));
    for (int i = 0; i < n; i++) {
        struct doctor_vm *vm = &d->vms[d->n_vms++];

        vm->name = must(strdup(entries[i]->d_name));
        read_vm(d, boot_id, vm);
        free(entries[i]);
    }
    free(entries);
}

bool doctor_user_of(const char *cgroup, uint64_t *ret_uid)
{
    static const char marker[] = "/user@";
    const char *at = cgroup ? strstr(cgroup, marker) : NULL;
    auto_free char *number = NULL;

    if (!at)
        return false;
    at += strlen(marker);
    number = must(strndup(at, strcspn(at, ".")));
    return parse_u64(number, 0, UINT32_MAX - 1, ret_uid) >= 0;
}

/* The pid that holds RUN/manager.lock. The file outlives its writer, so the name must fit as well; that is enough to look at it. */
static void find_manager(struct doctor *d)
{
    auto_free char *path = NULL, *text = NULL, *comm_path = NULL, *comm = NULL, *cgroup = NULL;
    uint64_t pid, uid;

    if (str_format(&path, "%s/" FILE_MANAGER_LOCK, d->in->dirs.run) < 0)
        must(NULL);
    text = doctor_text(d, path);
    if (!text || parse_u64(text, 1, INT32_MAX, &pid) < 0 || str_format(&comm_path, "/proc/%" PRIu64 "/comm", pid) < 0)
        return;
    comm = doctor_text(d, comm_path);
    if (!comm || !has_prefix(comm, "holdfastd"))
        return;
    d->manager_pid = (pid_t)pid;
    cgroup = read_cgroup(d, d->manager_pid);
    d->user = doctor_user_of(cgroup, &uid) ? (int64_t)uid : -1;
    const char *leaf = cgroup ? strrchr(cgroup, '/') : NULL;
    size_t len = leaf ? strlen(leaf + 1) : 0;
    if (!d->in->unit && len > strlen(".service") && streq(leaf + 1 + len - strlen(".service"), ".service")) {
        d->manager_unit = must(strdup(leaf + 1));
        d->manager_in_unit = true;
    }
}

void doctor_open(struct doctor *d, const struct invocation *in)
{
    d->in = in;
    d->root = in->root ? in->root : "";
    d->findings = must_json(json_array());
    d->units = must_json(json_object());
    d->systemd = doctor_exists(d, "/run/systemd/system"); /* sd_booted(3) */
    /* Until a manager is found to be elsewhere: an ordinary user's own folders are those of a manager of his own. */
    d->user = geteuid() == 0 || streq(in->dirs.run, "/run/holdfast") ? -1 : (int64_t)geteuid();
    read_vms(d);
    find_manager(d);
    if (!d->manager_unit)
        d->manager_unit = must(strdup(in->unit ? in->unit : "holdfastd.service"));
}

void doctor_close(struct doctor *d)
{
    for (size_t i = 0; i < d->n_vms; i++) {
        free(d->vms[i].name);
        free(d->vms[i].shim_cgroup);
        free(d->vms[i].qemu_cgroup);
        status_clear(&d->vms[i].status);
    }
    free(d->vms);
    free(d->manager_unit);
    json_decref(d->units);
    json_decref(d->findings);
    *d = (struct doctor){ 0 };
}

static bool parse_limit(const char *text, size_t len, uint64_t *ret)
{
    auto_free char *word = must(strndup(text, len));

    *ret = UINT64_MAX;
    return streq(word, "unlimited") || parse_u64(word, 0, UINT64_MAX, ret) >= 0;
}

bool doctor_limit(const struct doctor *d, pid_t pid, const char *name, uint64_t *ret_soft, uint64_t *ret_hard)
{
    auto_free char *path = NULL, *text = NULL;

    if (str_format(&path, "/proc/%d/limits", (int)pid) < 0)
        must(NULL);
    text = doctor_text(d, path);
    const char *at = text ? strstr(text, name) : NULL;
    if (!at)
        return false;
    at += strlen(name);
    at += strspn(at, " ");
    size_t len = strcspn(at, " \n");
    const char *next = at + len + strspn(at + len, " ");
    return parse_limit(at, len, ret_soft) && parse_limit(next, strcspn(next, " \n"), ret_hard);
}
