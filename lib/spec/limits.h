/* Every limit a spec is held to, in one place; packaging/man/holdfast-vm.5.scd names them for the operator. */
#pragma once

#include <stdint.h>

enum {
    CPUS_MAX = 255,   /* APIC ids of a q35 machine without interrupt remapping */
    DISKS_MAX = 64,   /* PCI slots 0x10 to 0x17 with eight functions each */
    BACKING_MAX = 6,  /* of one disk; each has a descriptor number of its own: proto/plan.h */
    NETWORKS_MAX = 8, /* PCI slots 0x04 to 0x0b */
    GPUS_MAX = 16,    /* root ports in PCI slots 0x18 and 0x19 with eight functions each */
    FORWARDS_MAX = 1024,
    PROBES_MAX = 16,
    EXTRA_ARGS_MAX = 1024,
    PROBE_RETRIES_MAX = 1000,
    RESTART_ATTEMPTS_MAX = 1000 * 1000,
    LOG_KEEP_MAX = 1000,
    LABEL_MAX = 16,           /* of ext4: EXT2_LABEL_LEN */
    CONTENT_FILES_MAX = 1024, /* files and folders on a disk that is made of files */
    CONTENT_DEPTH_MAX = 16,   /* folders in each other */
    CONTENT_PATH_MAX = 1023,  /* bytes of a path on it; 255 of each part: ext4 */
    CONTENT_NAME_MAX = 255,
    VSOCK_CID_MIN = 3,   /* 0 to 2 are the hypervisor, loopback and the host: vsock(7) */
    IFNAME_LEN_MAX = 15, /* IFNAMSIZ - 1: netdevice(7) */
    RESTART_DELAY_MIN_MS = 100,
    PROBE_INTERVAL_MIN_MS = 100,
};

#define VSOCK_CID_MAX (UINT32_MAX - 1) /* the last one is VMADDR_CID_ANY */
#define MEMORY_MIN (UINT64_C(1) << 20)
#define MEMORY_MAX (UINT64_C(64) << 40)
#define DISK_SIZE_MIN (UINT64_C(1) << 20)
#define DISK_SIZE_MAX (UINT64_C(1) << 50)
#define CONTENT_SIZE_MAX (UINT64_C(64) << 20) /* bytes on it: they are read at each look at the spec */
#define LOG_SIZE_MIN (UINT64_C(64) << 10)
#define LOG_SIZE_MAX (UINT64_C(1) << 40)
#define DURATION_MAX_MS (UINT64_C(365) * 24 * 3600 * 1000) /* so that sums of durations can't overflow a timer */
