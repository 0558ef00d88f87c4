#include "proto/states.h"

#include "lib/base/util.h"

#define NAMES(variable, words, table) const struct enum_names variable = { .what = (words), .names = (table), .n = ARRAY_LEN(table) }

/* Both tables below begin with these, so that a view of a VM's shim and the shim's own word can't differ. */
#define SHIM_STATES                                                                                                                 \
    [STATE_PREPARING] = "preparing", [STATE_LAUNCHING] = "launching", [STATE_RESTORING] = "restoring", [STATE_RUNNING] = "running", \
    [STATE_PAUSED] = "paused", [STATE_STOPPING] = "stopping", [STATE_BACKOFF] = "backoff", [STATE_EXITED] = "exited",               \
    [STATE_FAILED] = "failed"

static const char *const state_table[] = { SHIM_STATES };
NAMES(vm_state_names, "state", state_table);

static const char *const view_table[] = {
    SHIM_STATES, [VIEW_STOPPED] = "stopped", [VIEW_UNKNOWN] = "unknown", [VIEW_UNRESPONSIVE] = "unresponsive", [VIEW_ORPHANED] = "orphaned",
};
NAMES(vm_view_names, "state", view_table);

static const char *const wanted_table[] = { [WANTED_STOPPED] = "stopped", [WANTED_RUNNING] = "running" };
NAMES(vm_wanted_names, "wish", wanted_table);

static const char *const health_table[] = {
    [HEALTH_NONE] = "none",
    [HEALTH_STARTING] = "starting",
    [HEALTH_HEALTHY] = "healthy",
    [HEALTH_UNHEALTHY] = "unhealthy",
};
NAMES(vm_health_names, "health", health_table);

static const char *const exit_table[] = {
    [EXIT_UNKNOWN] = "unknown",         [EXIT_GUEST_SHUTDOWN] = "guest-shutdown",
    [EXIT_GUEST_RESET] = "guest-reset", [EXIT_GUEST_PANIC] = "guest-panic",
    [EXIT_STOPPED] = "stopped",         [EXIT_CODE] = "code",
    [EXIT_SIGNAL] = "signal",           [EXIT_OOM] = "oom",
};
NAMES(exit_kind_names, "kind of exit", exit_table);

static const char *const policy_table[] = {
    [RESTART_NEVER] = "never",
    [RESTART_ON_FAILURE] = "on-failure",
    [RESTART_ALWAYS] = "always",
};
NAMES(restart_policy_names, "restart policy", policy_table);

static const char *const rung_table[] = {
    [RUNG_AGENT] = "agent", [RUNG_ACPI] = "acpi", [RUNG_QUIT] = "quit",
    [RUNG_TERM] = "term",   [RUNG_KILL] = "kill", [RUNG_CGROUP] = "cgroup-kill",
};
NAMES(rung_kind_names, "rung of the stop ladder", rung_table);

static const char *const file_table[] = {
    [FILE_READ] = "read", [FILE_WRITE] = "write", [FILE_APPEND] = "append", [FILE_REOPENED] = "reopened",
    [FILE_TAP] = "tap",   [FILE_VFIO] = "vfio",   [FILE_IN_USE] = "in-use",
};
NAMES(file_kind_names, "kind of file", file_table);

static const char *const probe_table[] = {
    [PROBE_TCP] = "tcp", [PROBE_HTTP] = "http", [PROBE_AGENT] = "agent",
    [PROBE_QMP] = "qmp", [PROBE_EXEC] = "exec", [PROBE_CONSOLE] = "console",
};
NAMES(probe_kind_names, "health probe", probe_table);

static const char *const action_table[] = {
    [HEALTH_ACTION_NONE] = "none",
    [HEALTH_ACTION_RESTART] = "restart",
    [HEALTH_ACTION_RESET] = "reset",
};
NAMES(health_action_names, "health action", action_table);

static const char *const restore_table[] = { [RESTORE_LAZY] = "lazy", [RESTORE_MAPPED] = "mapped", [RESTORE_EAGER] = "eager" };
NAMES(restore_mode_names, "restore mode", restore_table);
