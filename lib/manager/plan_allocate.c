#include "lib/manager/plan_allocate.h"

#include <errno.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>

#include "lib/base/log.h"
#include "lib/manager/allocations.h"
#include "lib/manager/host_ports.h"
#include "lib/manager/specs.h"
#include "lib/manager/state.h"

static uint64_t host_memory(void)
{
    struct sysinfo info;

    return sysinfo(&info) < 0 ? 0 : (uint64_t)info.totalram * info.mem_unit;
}

/* A file system that says nothing of itself has room. */
static uint64_t disk_free(const struct plan_request *p)
{
    struct statvfs st;

    if (p->limits.disk_reserve == 0 || fstatvfs(p->vm->manager->state_vms_fd, &st) < 0)
        return UINT64_MAX;
    return (uint64_t)st.f_bavail * st.f_frsize;
}

static int refuse(struct plan_request *p, enum refusal refusal, int r)
{
    p->refusal = refusal;
    return r;
}

int plan_check_host_ports(struct plan_request *p, bool spvm)
{
    struct allocations *a = p->vm->manager->allocations;
    bool own = !(p->use & PLAN_LAUNCH);
    char pointer[CLAIM_TEXT_MAX];

    for (size_t i = 0; i < p->claims.n_ports; i++) {
        int r;

        if (own && allocations_holds_port(a, p->vm->name, &p->claims.ports[i]))
            continue;
        r = host_port_check(&p->claims.ports[i], &p->err);
        if (r < 0) {
            claim_pointer(&p->claims, CLAIM_PORT, i, spvm, pointer);
            err_prefix(&p->err, "%s", pointer);
            return refuse(p, r == -EADDRINUSE ? REFUSAL_BY_HOST : REFUSAL_NONE, r);
        }
    }
    return 0;
}

/* Whether others have what it asks for, and whether the host allows any VM as much. */
static int check_claims(struct plan_request *p, const struct spec *spec, bool spvm)
{
    struct manager *m = p->vm->manager;
    int limits, taken;

    limits = admission_check_spec(&p->limits, spec, spvm, specs_collect_problem, p->problems);
    taken = allocations_check(m->allocations, spec->name, &p->claims, spvm, specs_collect_problem, p->problems);
    if (limits + taken == 0)
        return 0;
    specs_problems_err(p->problems, &p->err);
    return refuse(p, limits ? REFUSAL_NONE : REFUSAL_BY_VMS, limits ? -EINVAL : -EBUSY);
}

static int take(struct plan_request *p, struct admission *admission)
{
    int r = allocations_take(p->vm->manager->allocations, p->vm->name, &p->claims, admission, &p->freed, &p->err);

    return r == -EBUSY || r == -EDQUOT ? refuse(p, REFUSAL_BY_VMS, r) : r;
}

int plan_allocate(struct plan_request *p, struct spec *spec, bool spvm)
{
    struct manager *m = p->vm->manager;
    struct admission admission = { .limits = &p->limits, .host_memory = host_memory() };
    int r;

    p->refusal = REFUSAL_NONE;
    claims_clear(&p->claims);
    if (p->use & (PLAN_TRY | PLAN_DRY)) {
        r = allocations_try(m->allocations, spec, &p->ports, &p->err);
        /* A spec that is shown before it is applied is refused as it would be then. */
        if (r < 0 || !(p->use & PLAN_DRY) || !p->given || !spec->enabled)
            return r;
        r = claims_from_spec(spec, &p->claims);
        return r < 0 ? r : check_claims(p, spec, spvm);
    }
    r = allocations_give(m->allocations, spec, &p->ports, &p->err);
    if (r < 0 || p->place.run)
        return r;
    r = claims_from_spec(spec, &p->claims);
    if (r >= 0 && p->contends)
        r = check_claims(p, spec, spvm);
    if (r < 0 || !(p->use & (PLAN_LAUNCH | PLAN_ADMIT)))
        return r;
    admission.disk_free = disk_free(p);
    r = allocations_admit(m->allocations, spec->name, &p->claims, &admission, &p->err);
    if (r < 0)
        return r == -EDQUOT ? refuse(p, REFUSAL_BY_VMS, r) : r;
    r = plan_check_host_ports(p, spvm);
    return r >= 0 && (p->use & PLAN_LAUNCH) ? take(p, &admission) : r;
}
