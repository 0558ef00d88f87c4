/* "limits" and "ports" of the host config: what VMs may take of this host in all, and each. */
#pragma once

#include "lib/base/err.h"
#include "lib/base/record.h"

#define MEMORY_OF_HOST UINT64_MAX /* "auto": what the host has */

struct host_range {
    uint64_t min, max; /* 0: no such limit */
};

struct host_limits {
    uint64_t cpus, memory, disk; /* of all VMs that run or are to run together; 0: no limit; memory may be MEMORY_OF_HOST */
    uint64_t disk_reserve;       /* bytes that must be free where disks are made when a VM with disks of its own starts */
    struct host_range cpus_per_vm, memory_per_vm, disk_size;
};
extern const struct record_type host_limits_type;

struct port_range {
    uint16_t first, last;
};
extern const struct field_codec codec_port_range; /* "20000-29999" */

#define PORT_RANGE_DEFAULT ((struct port_range){ 20000, 29999 }) /* below the ports Linux gives out itself: ip(7) */

/* What depends on more than one key. -EINVAL, the text begins with a JSON Pointer. */
int host_limits_check(const struct host_limits *limits, struct err *err);
