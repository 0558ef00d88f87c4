/* Whether there is room on the host for one VM more: pure arithmetic over what the others have. */
#pragma once

#include <stddef.h>

#include "lib/base/err.h"
#include "lib/manager/host_limits.h"
#include "lib/spec/claims.h"

/* One that runs or is to run. */
struct tenant {
    const char *name;
    const struct claims *claims;
};

struct admission {
    const struct host_limits *limits;
    uint64_t host_memory; /* 0: not known */
    uint64_t disk_free;   /* where disks are made */
    const struct tenant *tenants;
    size_t n_tenants;         /* without the one in question */
    const struct claims *own; /* what that one has already, NULL: nothing. It is never refused what it has */
};

/* -EDQUOT with id "no-room" and the numbers: what is asked for, what is left, and who has most of it. */
int admission_check(const struct admission *admission, const struct claims *claims, struct err *err);

/* What the host allows any one VM, of a spec. Reports as the spec's checker does, "POINTER: text"; how many. */
int admission_check_spec(const struct host_limits *limits, const struct spec *spec, bool spvm,
                         void (*report)(void *arg, const struct err *err), void *arg);
