#include "lib/manager/admission.h"

#include <errno.h>
#include <stdio.h>

#include "lib/base/parse.h"
#include "lib/base/util.h"

enum { AMOUNT_TEXT_MAX = 32, SHARES_TEXT_MAX = 256, SHARES_SHOWN = 3, EXACT_MAX = 5 };

/* What is limited, as data. */
struct resource {
    const char *key, *what;
    size_t claim, limit;
    bool bytes;
};

static const struct resource resources[] = {
    { "cpus", "CPUs", offsetof(struct claims, cpus), offsetof(struct host_limits, cpus), false },
    { "memory", "memory", offsetof(struct claims, memory), offsetof(struct host_limits, memory), true },
    { "disk", "disk space", offsetof(struct claims, disk), offsetof(struct host_limits, disk), true },
};

static uint64_t field_at(const void *record, size_t offset) { return *(const uint64_t *)((const char *)record + offset); }

/* For people: exact where that is short, and of what is free a tenth will do. */
static const char *format_amount(bool bytes, uint64_t n, char buf[AMOUNT_TEXT_MAX])
{
    static const char units[] = "KMGT";
    char exact[SIZE_TEXT_MAX];
    double value = (double)n / 1024;
    size_t unit = 0;

    if (!bytes || n < 1024) {
        snprintf(buf, AMOUNT_TEXT_MAX, "%llu%s", (unsigned long long)n, bytes ? " bytes" : "");
        return buf;
    }
    if (strlen(format_size(n, exact)) <= EXACT_MAX) {
        snprintf(buf, AMOUNT_TEXT_MAX, "%s", exact);
        return buf;
    }
    for (; value >= 1024 && unit < sizeof units - 2; value /= 1024)
        unit++;
    snprintf(buf, AMOUNT_TEXT_MAX, "%.1f%c", value, units[unit]);
    return buf;
}

static uint64_t add(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

static uint64_t share(const struct tenant *tenant, const struct resource *resource) { return field_at(tenant->claims, resource->claim); }

/* "web 8G, mail 2G and 5 more have 12G": the biggest first. */
static void format_shares(const struct admission *a, const struct resource *resource, uint64_t used, char buf[SHARES_TEXT_MAX])
{
    const struct tenant *top[SHARES_SHOWN];
    size_t n_top = 0, n = 0, len = 0;
    char amount[AMOUNT_TEXT_MAX];

    for (size_t i = 0; i < a->n_tenants; i++) {
        const struct tenant *t = &a->tenants[i];
        size_t at = n_top;

        if (share(t, resource) == 0)
            continue;
        n++;
        while (at > 0 && share(top[at - 1], resource) < share(t, resource))
            at--;
        if (at == SHARES_SHOWN)
            continue;
        if (n_top < SHARES_SHOWN)
            n_top++;
        memmove(&top[at + 1], &top[at], (n_top - at - 1) * sizeof(top[0])); /* NOLINT(bugprone-sizeof-expression): of pointers */
        top[at] = t;
    }
    if (n == 0) {
        snprintf(buf, SHARES_TEXT_MAX, "no other VM has any");
        return;
    }
    for (size_t i = 0; i < n_top; i++)
        len += (size_t)snprintf(buf + len, SHARES_TEXT_MAX - len, "%s%.*s %s", i ? ", " : "", 40, top[i]->name,
                                format_amount(resource->bytes, share(top[i], resource), amount));
    if (n > n_top)
        len += (size_t)snprintf(buf + len, SHARES_TEXT_MAX - len, " and %zu more", n - n_top);
    (void)snprintf(buf + len, SHARES_TEXT_MAX - len, " %s %s", n == 1 ? "has" : "have", format_amount(resource->bytes, used, amount));
}

static int check_limit(const struct admission *a, const struct claims *claims, const struct resource *resource, struct err *err)
{
    uint64_t limit = field_at(a->limits, resource->limit), asked = field_at(claims, resource->claim), used = 0;
    char asked_text[AMOUNT_TEXT_MAX], left_text[AMOUNT_TEXT_MAX], limit_text[AMOUNT_TEXT_MAX], shares[SHARES_TEXT_MAX];
    bool of_host = limit == MEMORY_OF_HOST;

    limit = of_host ? a->host_memory : limit;
    if (limit == 0 || asked == 0 || (a->own && asked <= field_at(a->own, resource->claim)))
        return 0;
    for (size_t i = 0; i < a->n_tenants; i++)
        used = add(used, share(&a->tenants[i], resource));
    if (add(used, asked) <= limit)
        return 0;
    format_shares(a, resource, used, shares);
    return err_set(err, EDQUOT, "no-room", "not enough %s: it asks for %s, and of %s (%s) %s %s left: %s", resource->what,
                   format_amount(resource->bytes, asked, asked_text), format_amount(resource->bytes, limit, limit_text),
                   of_host ? "what this host has" : "limits in the host config",
                   format_amount(resource->bytes, limit > used ? limit - used : 0, left_text),
                   !resource->bytes && limit > used + 1 ? "are" : "is", shares);
}

/* Disks are sparse, so that this isn't about what they could grow to, but about not starting a VM on a file system that is about to be full. */
static int check_reserve(const struct admission *a, const struct claims *claims, struct err *err)
{
    char free_text[AMOUNT_TEXT_MAX], reserve_text[AMOUNT_TEXT_MAX];

    if (claims->disk == 0 || a->disk_free >= a->limits->disk_reserve || (a->own && claims->disk <= a->own->disk))
        return 0;
    return err_set(err, EDQUOT, "no-room", "not enough disk space: %s are free where disks are kept, and limits.disk_reserve is %s",
                   format_amount(true, a->disk_free, free_text), format_amount(true, a->limits->disk_reserve, reserve_text));
}

int admission_check(const struct admission *a, const struct claims *claims, struct err *err)
{
    char asked[AMOUNT_TEXT_MAX], has[AMOUNT_TEXT_MAX];
    int r = 0;

    if (a->host_memory && claims->memory > a->host_memory && !(a->own && claims->memory <= a->own->memory))
        return err_set(err, EDQUOT, "no-room", "not enough memory: it asks for %s, and this host has %s in all",
                       format_amount(true, claims->memory, asked), format_amount(true, a->host_memory, has));
    for (size_t i = 0; i < ARRAY_LEN(resources) && r >= 0; i++)
        r = check_limit(a, claims, &resources[i], err);
    return r < 0 ? r : check_reserve(a, claims, err);
}

/* ---- each VM by itself ---- */

struct reporter {
    void (*report)(void *arg, const struct err *err);
    void *arg;
    int n;
};

static void check_range(struct reporter *to, const char *pointer, const struct host_range *range, uint64_t value, bool bytes,
                        const char *key)
{
    bool low = value < range->min;
    struct err err = ERR_INIT;
    char got[AMOUNT_TEXT_MAX], limit[AMOUNT_TEXT_MAX];

    if (!low && (range->max == 0 || value <= range->max))
        return;
    err_set(&err, EINVAL, "bad-spec", "%s: %s is %s than limits.%s.%s of this host, %s", pointer, format_amount(bytes, value, got),
            low ? "less" : "more", key, low ? "min" : "max", format_amount(bytes, low ? range->min : range->max, limit));
    to->n++;
    if (to->report)
        to->report(to->arg, &err);
}

int admission_check_spec(const struct host_limits *limits, const struct spec *spec, bool spvm,
                         void (*report)(void *arg, const struct err *err), void *arg)
{
    struct reporter to = { report, arg, 0 };
    char pointer[CLAIM_TEXT_MAX];

    check_range(&to, spvm ? "/qemu_configuration/cores" : "/cpus", &limits->cpus_per_vm, spec->cpus, false, "cpus_per_vm");
    check_range(&to, spvm ? "/qemu_configuration/mem_gb" : "/memory", &limits->memory_per_vm, spec->memory, true, "memory_per_vm");
    for (size_t i = 0; i < spec->n_disks; i++) {
        if (spvm)
            snprintf(pointer, sizeof pointer, "/qemu_configuration/state_disk_size_gb");
        else
            snprintf(pointer, sizeof pointer, "/disks/%zu/size", i);
        if (!spec->disks[i].path)
            check_range(&to, pointer, &limits->disk_size, spec->disks[i].size, true, "disk_size");
    }
    return to.n;
}
