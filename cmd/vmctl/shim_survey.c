#include "cmd/vmctl/shim_survey.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>

#include "cmd/vmctl/manager.h"
#include "cmd/vmctl/names.h"
#include "cmd/vmctl/output.h"
#include "cmd/vmctl/parallel.h"
#include "lib/base/fd.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "proto/launch.h"
#include "proto/states.h"

static char *vm_path(const struct invocation *in, const char *name, const char *file)
{
    char *path = NULL;

    if (str_format(&path, "%s/%s/%s%s%s", in->dirs.run, FOLDER_VMS, name, *file ? "/" : "", file) < 0)
        must(NULL);
    return path;
}

static char *survey_socket(void *arg, const struct task *t) { return vm_path(arg, t->name, FILE_SHIM_SOCKET); }

static json_t *survey_parameters(void *arg, const struct task *t) { return must_json(json_object()); }

/* What the kernel knows about who lives: the locks. */
static int read_locks(const struct invocation *in, const char *name, bool *ret_shim, bool *ret_vm)
{
    auto_free char *path = vm_path(in, name, "");
    auto_fd int dirfd = dir_open(AT_FDCWD, path);
    int shim, vm;

    if (dirfd < 0)
        return dirfd;
    shim = lock_is_held(dirfd, FILE_SHIM_LOCK);
    vm = lock_is_held(dirfd, FILE_VM_LOCK);
    if (shim < 0 || vm < 0)
        return shim < 0 ? shim : vm;
    *ret_shim = shim;
    *ret_vm = vm;
    return 0;
}

/* The state of a VM whose shim gave no answer, and why we think so. */
static int state_by_locks(const struct invocation *in, const char *name, int result, const char **ret_reason)
{
    bool shim = false, vm = false;

    int r = read_locks(in, name, &shim, &vm);
    if (r < 0) {
        *ret_reason = r == -EACCES ? "permission denied" : strerror(-r);
        return VIEW_UNKNOWN;
    }
    if (shim) {
        *ret_reason = result == -EACCES                           ? "permission denied"
                      : result == -ETIMEDOUT || result == -EAGAIN ? "its shim lives and doesn't answer"
                                                                  : "its shim lives and refused to answer";
        return result == -EACCES ? VIEW_UNKNOWN : VIEW_UNRESPONSIVE;
    }
    *ret_reason = vm ? "QEMU runs, no shim supervises it (a manager will adopt it)" : "neither shim nor QEMU runs";
    return vm ? VIEW_ORPHANED : VIEW_STOPPED;
}

bool shim_is_orphan(const struct invocation *in, const char *name)
{
    bool shim = false, vm = false;

    return read_locks(in, name, &shim, &vm) == 0 && vm && !shim;
}

static json_t *survey_entry(const struct invocation *in, const struct task *t)
{
    const json_t *status = json_object_get(t->reply, "status");
    const char *reason = NULL, *state;

    if (t->result == 0 && json_is_object(status))
        state = member_text(status, "state");
    else
        state = enum_to_string(&vm_view_names, state_by_locks(in, t->name, t->result, &reason));
    return must_json(
        json_pack("{s:s, s:s, s:s?, s:O?}", "name", t->name, "state", state, "reason", reason, "status", reason ? NULL : status));
}

enum outcome shim_folder_check(const struct invocation *in, const char *name)
{
    auto_free char *path = vm_path(in, name, "");

    if (access(path, F_OK) == 0)
        return OUTCOME_DONE;
    complain("%s: no such VM below %s/%s (see: vmctl shim list)", name, in->dirs.run, FOLDER_VMS);
    return OUTCOME_NO_SUCH;
}

enum outcome shim_survey(const struct invocation *in, char *const *names, size_t n, json_t **ret_survey)
{
    struct parallel p = {
        .tasks = tasks_new(names, n),
        .n = n,
        .method = SHIM_INTERFACE ".GetStatus",
        .timeout_ms = SHIM_TIMEOUT_MS,
        .socket = survey_socket,
        .parameters = survey_parameters,
        .arg = (void *)(uintptr_t)in,
    };
    json_t *survey = must_json(json_array());
    enum outcome outcome = OUTCOME_DONE;

    parallel_run(&p);
    for (size_t i = 0; i < n; i++) {
        if (p.tasks[i].result < 0 && shim_folder_check(in, names[i]) != OUTCOME_DONE) {
            outcome = outcome_merge(outcome, OUTCOME_NO_SUCH);
            continue;
        }
        json_array_append_new(survey, survey_entry(in, &p.tasks[i]));
    }
    tasks_free(p.tasks, n);
    *ret_survey = survey;
    return outcome;
}

static int folder_filter(const struct dirent *e) { return name_is_valid(e->d_name); }

enum outcome shim_survey_all(const struct invocation *in, json_t **ret_survey)
{
    auto_free char *folder = NULL;
    auto_strv struct strv names = { 0 };
    struct dirent **entries = NULL;

    if (str_format(&folder, "%s/%s", in->dirs.run, FOLDER_VMS) < 0)
        must(NULL);
    int n = scandir(folder, &entries, folder_filter, versionsort);
    int e = errno;
    for (int i = 0; i < n; i++) {
        strv_push(&names, entries[i]->d_name);
        free(entries[i]);
    }
    free(entries);
    if (names.failed)
        must(NULL);
    if (n < 0 && e != ENOENT) {
        complain("%s: %s", folder, strerror(e));
        return e == EACCES ? OUTCOME_REFUSED : OUTCOME_FAILED;
    }
    /* A folder that went away while we asked is no mistake. */
    enum outcome outcome = shim_survey(in, strv_argv(&names), names.n, ret_survey);
    return outcome == OUTCOME_NO_SUCH ? OUTCOME_DONE : outcome;
}

enum outcome shim_connect(const struct invocation *in, const char *name, struct varlink_client **ret_client)
{
    auto_free char *path = vm_path(in, name, FILE_SHIM_SOCKET);
    struct err err = ERR_INIT;
    const char *reason = NULL;

    enum outcome outcome = name_check(in, name);
    if (outcome != OUTCOME_DONE)
        return outcome;
    int r = varlink_client_connect(path, ret_client, &err);
    if (r >= 0)
        return OUTCOME_DONE;
    outcome = shim_folder_check(in, name);
    if (outcome != OUTCOME_DONE)
        return outcome;
    if (r == -EACCES) {
        complain("%s: %s: permission denied (members of the group holdfast may manage VMs)", name, path);
        return OUTCOME_REFUSED;
    }
    int state = state_by_locks(in, name, r, &reason);
    complain("%s: %s: %s", name, enum_to_string(&vm_view_names, state), reason);
    return state == VIEW_UNRESPONSIVE ? OUTCOME_TIMED_OUT : OUTCOME_FAILED;
}

enum outcome shim_complain(const char *name, const struct varlink_client *client, int r, const json_t *parameters, const struct err *err)
{
    const char *error = varlink_client_error(client);

    if (r == -ETIMEDOUT) {
        complain("%s: its shim lives and doesn't answer; the VM is not affected", name);
        return OUTCOME_TIMED_OUT;
    }
    if (r != -EREMOTEIO) {
        complain("%s: the shim went away before it answered: %s", name, strerror(-r));
        return OUTCOME_FAILED;
    }
    complain_call(NULL, name, r, error, parameters, err);
    return outcome_of_call(r, error);
}
