/* What a VM may take of its host: written in the spec, carried by the plan, set on the VM's scope by the manager
 * (systemd.resource-control(5)). 0 in a field: no limit. */
#pragma once

#include <stdint.h>

#include "lib/base/record.h"

struct limits {
    uint64_t cpu_quota;   /* percent of one processor: "150%" is one and a half */
    uint64_t cpu_weight;  /* 1 to 10000, 100 is everybody's */
    uint64_t memory_high; /* bytes of QEMU and shim together, above which they are slowed down … */
    uint64_t memory_max;  /* … and ended by the OOM killer */
    uint64_t io_weight;   /* as cpu_weight */
};

enum {
    LIMIT_WEIGHT_MAX = 10000,
    LIMIT_QUOTA_MAX = 100000, /* percent: a thousand processors */
};

extern const struct record_type limits_type;

bool limits_any(const struct limits *l);
