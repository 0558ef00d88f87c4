#include "lib/manager/api.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

#include "lib/base/fd.h"
#include "lib/manager/registry.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"
#include "proto/interfaces.h"

enum { MANAGER_BACKLOG = 512 };

static const struct varlink_method methods[] = {
    { .name = "List", .run = api_list },
    { .name = "Get", .run = api_get },
    { .name = "Inspect", .run = api_inspect },
    { .name = "Apply", .run = api_apply },
    { .name = "Diff", .run = api_diff },
    { .name = "Delete", .run = api_delete },
    { .name = "Start", .run = api_start_vm },
    { .name = "Stop", .run = api_stop },
    { .name = "Restart", .run = api_restart },
    { .name = "Kill", .run = api_kill },
    { .name = "Pause", .run = api_pause },
    { .name = "Resume", .run = api_resume },
    { .name = "Reset", .run = api_reset },
    { .name = "Qmp", .run = api_qmp },
    { .name = "Memory", .run = api_memory },
    { .name = "Adopt", .run = api_adopt },
    { .name = "Wait", .run = api_wait },
    { .name = "Events", .run = api_events, .more = true },
    { .name = "SnapshotCreate", .run = api_snapshot_create },
    { .name = "SnapshotList", .run = api_snapshot_list },
    { .name = "SnapshotShow", .run = api_snapshot_show },
    { .name = "SnapshotDelete", .run = api_snapshot_delete },
    { .name = "SnapshotVerify", .run = api_snapshot_verify },
    { .name = "SnapshotWarm", .run = api_snapshot_warm },
    { .name = "Restore", .run = api_restore },
    { .name = "Clone", .run = api_clone },
    { .name = "Drain", .run = api_drain },
};

int api_start(struct manager *m, struct err *err)
{
    const struct varlink_service_config config = {
        .vendor = "Holdfast",
        .product = "holdfastd",
        .version = HOLDFAST_VERSION,
        .url = "https://varlink.org",
        .group = m->group,
    };
    auto_fd int fd = -1;
    int r;

    r = varlink_service_new(m->loop, &config, &m->service);
    if (r < 0)
        return err_set_errno(err, -r, "no-service", "can't make the manager's service");
    r = varlink_service_add(m->service, m->manager_interface, methods, ARRAY_LEN(methods), m, err);
    if (r < 0)
        return r;
    /* The lock makes the name ours: what is there is a dead manager's. */
    fd = socket_listen(m->run_fd, FILE_MANAGER_SOCKET, SOCKET_MODE, MANAGER_BACKLOG);
    if (fd < 0)
        return err_set_errno(err, -fd, "no-socket", "can't listen on %s/%s", m->dirs.run, FILE_MANAGER_SOCKET);
    if (m->group != (gid_t)-1 && fchownat(m->run_fd, FILE_MANAGER_SOCKET, (uid_t)-1, m->group, AT_SYMLINK_NOFOLLOW) < 0)
        return err_set_errno(err, errno, "no-socket", "can't give %s/%s to its group", m->dirs.run, FILE_MANAGER_SOCKET);
    r = varlink_service_listen_take(m->service, fd);
    if (r < 0)
        return err_set_errno(err, -r, "no-service", "can't listen on %s/%s", m->dirs.run, FILE_MANAGER_SOCKET);
    steal_fd(&fd);
    return 0;
}

struct vm *api_vm(struct manager *m, struct varlink_call *call, const json_t *parameters)
{
    const char *name = json_string_value(json_object_get(parameters, "name"));
    struct vm *vm = registry_find(m, name);

    if (!vm)
        api_no_such_vm(call, name);
    return vm;
}

__attribute__((format(printf, 1, 0))) static char *format(const char *fmt, va_list args)
{
    char *text = NULL;

    return vasprintf(&text, fmt, args) < 0 ? NULL : text;
}

void api_no_such_vm(struct varlink_call *call, const char *name)
{
    auto_free char *reason = NULL;

    (void)str_format(&reason, "there is no VM \"%s\"", name ? name : "");
    varlink_call_error_consume(call, MANAGER_INTERFACE ".NoSuchVM",
                               json_pack("{s:s, s:o}", "name", name ? name : "", "reason", json_text(reason ? reason : "no such VM")));
}

void api_no_such_snapshot(struct varlink_call *call, const char *vm, const char *snapshot)
{
    auto_free char *reason = NULL;

    (void)str_format(&reason, "there is no snapshot %s/%s (see: vmctl snapshot list)", vm, snapshot);
    varlink_call_error_consume(
        call, MANAGER_INTERFACE ".NoSuchSnapshot",
        json_pack("{s:s, s:s, s:o}", "vm", vm, "snapshot", snapshot, "reason", json_text(reason ? reason : "no such snapshot")));
}

/* An error that has just a name and a reason. */
__attribute__((format(printf, 5, 0))) static void answer(struct varlink_call *call, const char *error, const char *name,
                                                         const char *otherwise, const char *fmt, va_list args)
{
    auto_free char *reason = format(fmt, args);

    varlink_call_error_consume(call, error, json_pack("{s:s*, s:o}", "name", name, "reason", json_text(reason ? reason : otherwise)));
}

void api_refuse(struct varlink_call *call, const char *name, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    answer(call, MANAGER_INTERFACE ".Refused", name, "refused", fmt, args);
    va_end(args);
}

void api_timed_out(struct varlink_call *call, const char *name, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    answer(call, MANAGER_INTERFACE ".TimedOut", name, "timed out", fmt, args);
    va_end(args);
}

void api_fail(struct varlink_call *call, const char *name, const char *id, const char *detail, const char *fmt, ...)
{
    auto_free char *reason = NULL;
    va_list args;

    va_start(args, fmt);
    reason = format(fmt, args);
    va_end(args);
    varlink_call_error_consume(call, MANAGER_INTERFACE ".Failed",
                               json_pack("{s:s*, s:s, s:o, s:o*}", "name", name, "id", id, "reason", json_text(reason ? reason : id),
                                         "detail", json_text(detail)));
}

void api_fail_memory(struct varlink_call *call) { api_fail(call, NULL, "no-memory", NULL, "out of memory"); }

void api_bad_spec_consume(struct varlink_call *call, json_t *problems)
{
    struct err err = ERR_INIT;

    specs_problems_err(problems, &err);
    varlink_call_error_consume(call, MANAGER_INTERFACE ".BadSpec",
                               json_pack("{s:o, s:o}", "problems", problems, "reason", json_text(err.text)));
}

void api_unresponsive(struct varlink_call *call, const struct vm *vm)
{
    api_fail(call, vm->name, "unresponsive", NULL, API_UNRESPONSIVE, vm->name, (int)vm->shim_pid);
}

static void on_gone(void *arg)
{
    struct answer *a = arg;

    a->call = NULL;
}

void answer_bind(struct answer *a, struct varlink_call *call)
{
    a->call = call;
    varlink_call_on_gone(call, on_gone, a);
}
