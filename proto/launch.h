/* How a manager and the shim it starts meet (DESIGN §1, §2.4), and the names of what they leave in a VM's folder.
 *
 *   holdfast-shim --plan-fd N --sync-fd M [--adopt] NAME
 *
 * N: a memfd with the plan's JSON. M: one end of a socketpair(AF_UNIX, SOCK_STREAM). The shim takes its locks, binds its
 * socket and writes LAUNCH_READY; or it writes one line of text (why not) and exits 1. The manager moves it to its
 * scope and answers LAUNCH_GO; end of file instead means the manager is gone, and the shim undoes what it did and exits. From
 * the go on the shim needs nobody. */
#pragma once

enum {
    LAUNCH_READY = 'R',
    LAUNCH_GO = 'G',
    LAUNCH_READY_TIMEOUT_MS = 10 * 1000,
};

/* In RUN/vms/NAME. */
#define FILE_VM_LOCK "vm.lock"
#define FILE_SHIM_LOCK "shim.lock"
#define FILE_PLAN "plan.json"
#define FILE_PLAN_NEXT "plan-next.json" /* a change while it runs that isn't done: whoever finds it undoes it (shim/update.c) */
#define FILE_SPEC "spec.json"           /* the manager's: the native spec that the plan was made of, and that plan's digest */
#define FILE_STATUS "status.json"
#define FILE_MEMORY_STATE "memory.json"
#define FILE_RESTORE_DISKS "restore-disks.json"
#define FILE_SPEC "spec.json" /* the manager's: what the plan was made of */
#define FILE_SHIM_SOCKET "shim.sock"
#define FILE_QMP_SOCKET "qmp.sock"
#define FILE_CONSOLE_SOCKET "console.sock"
#define FILE_AGENT_SOCKET "agent.sock"
/* In STATE/vms/NAME. */
#define FILE_WANTED "wanted.json"
#define FILE_LAST_EXIT "last-exit.json"
#define FILE_EVENTS "events.jsonl"
/* In LOG/NAME. */
#define FILE_CONSOLE_LOG "console.log"
#define FILE_QEMU_LOG "qemu.log"
#define FILE_SHIM_LOG "shim.log"
/* In RUN. */
#define FILE_MANAGER_LOCK "manager.lock"
#define FILE_MANAGER_SOCKET "manager.sock"
#define FILE_IMAGES_SOCKET "images.sock"
#define FILE_DRAINING "draining"
#define FOLDER_VMS "vms"

/* A VM's cgroup is a folder of this name with the VM's behind it, somewhere below the mount of cgroup v2. */
#define CGROUP_PREFIX "holdfast-vm-"
#define CGROUP_MOUNT "/sys/fs/cgroup"

/* Largest record any of them may be. */
enum { RECORD_MAX = 1024 * 1024 };
