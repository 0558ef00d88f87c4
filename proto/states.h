/* The names both sides of the wire use. Each enum has one table of names; tests/unit/test_states.c round-trips them all. */
#pragma once

#include "lib/base/record.h"

/* What a shim says of its VM (DESIGN §7), then what only a manager can say of one. */
enum vm_state {
    STATE_PREPARING,
    STATE_LAUNCHING,
    STATE_RESTORING,
    STATE_RUNNING,
    STATE_PAUSED,
    STATE_STOPPING,
    STATE_BACKOFF,
    STATE_EXITED,
    STATE_FAILED,
};
enum { STATE_COUNT = STATE_FAILED + 1 };
extern const struct enum_names vm_state_names;

enum vm_view {
    /* 0 … STATE_FAILED: as the shim says */
    VIEW_STOPPED = STATE_COUNT,
    VIEW_UNKNOWN,
    VIEW_UNRESPONSIVE,
    VIEW_ORPHANED,
};
enum { VIEW_COUNT = VIEW_ORPHANED + 1 };
extern const struct enum_names vm_view_names;

enum vm_wanted { WANTED_STOPPED, WANTED_RUNNING };
extern const struct enum_names vm_wanted_names;

enum vm_health { HEALTH_NONE, HEALTH_STARTING, HEALTH_HEALTHY, HEALTH_UNHEALTHY };
extern const struct enum_names vm_health_names;

enum exit_kind {
    EXIT_UNKNOWN,
    EXIT_GUEST_SHUTDOWN,
    EXIT_GUEST_RESET,
    EXIT_GUEST_PANIC,
    EXIT_STOPPED, /* by a stop or kill somebody asked for */
    EXIT_CODE,
    EXIT_SIGNAL,
    EXIT_OOM,
};
extern const struct enum_names exit_kind_names;

enum restart_policy { RESTART_NEVER, RESTART_ON_FAILURE, RESTART_ALWAYS };
extern const struct enum_names restart_policy_names;

/* How a file of the plan is opened for QEMU before it gives up root. */
enum file_kind {
    FILE_READ,     /* for reading only */
    FILE_WRITE,    /* for reading and writing */
    FILE_APPEND,   /* made if need be (0640), written at its end, never through a symlink */
    FILE_REOPENED, /* for reading; QEMU opens it once more as /proc/self/fd/N, so it gets a copy when its user may not read the file */
    FILE_TAP,      /* the tap device of that name */
    FILE_VFIO,     /* the character device that vfio-pci made of the PCI device whose folder in sysfs that is */
    FILE_IN_USE,   /* a folder, flocked shared: whoever would delete it sees that it is in use; nothing is read from it */
};
extern const struct enum_names file_kind_names;

enum rung_kind { RUNG_AGENT, RUNG_ACPI, RUNG_QUIT, RUNG_TERM, RUNG_KILL, RUNG_CGROUP };
extern const struct enum_names rung_kind_names;

enum probe_kind { PROBE_TCP, PROBE_HTTP, PROBE_AGENT, PROBE_QMP, PROBE_EXEC, PROBE_CONSOLE };
extern const struct enum_names probe_kind_names;

enum health_action { HEALTH_ACTION_NONE, HEALTH_ACTION_RESTART, HEALTH_ACTION_RESET };
extern const struct enum_names health_action_names;

/* Where a restored guest's memory comes from: served by the shim page by page as the guest asks for it, mapped from the snapshot's file
 * and paged by the kernel, or loaded whole before the guest runs. */
enum restore_mode { RESTORE_LAZY, RESTORE_MAPPED, RESTORE_EAGER };
extern const struct enum_names restore_mode_names;
