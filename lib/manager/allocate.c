#include "lib/manager/allocate.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/strv.h"
#include "lib/manager/allocations.h"
#include "lib/manager/host_ports.h"
#include "lib/qemu/resolve.h"
#include "lib/spec/limits.h"

enum { MAC_ATTEMPTS_MAX = 1000, PORTS = 65536, BITS = 8 };

/* Calls `each` with everything that VMs but `self` have: what was given to them, and what those that are active hold. */
static void each_other(const struct map *vms, const struct holding *self, void (*each)(void *arg, const struct claims *claims), void *arg)
{
    map_foreach (vms, e) {
        const struct holding *h = map_value(e);

        if (h == self)
            continue;
        each(arg, &h->given);
        if (h->holds && h->active)
            each(arg, &h->held);
    }
}

/* ---- context ids ---- */

struct cids_seen {
    bool *taken; /* from CID_FIRST on */
    size_t n;
};

static void see_cid(void *arg, const struct claims *claims)
{
    const struct cids_seen *seen = arg;

    if (claims->cid >= CID_FIRST && claims->cid - CID_FIRST < seen->n)
        seen->taken[claims->cid - CID_FIRST] = true;
}

/* The lowest that is free, and one more than there can be taken always holds one. */
static int choose_cid(const struct map *vms, const struct holding *self, uint64_t *ret_cid)
{
    struct cids_seen seen = { .n = 2 * map_len(vms) + 1 };
    auto_free bool *taken = seen.taken = calloc(seen.n, sizeof(bool));
    size_t i = 0;

    if (!taken)
        return -ENOMEM;
    each_other(vms, self, see_cid, &seen);
    while (taken[i])
        i++;
    *ret_cid = CID_FIRST + i;
    return 0;
}

static int fill_cid(const struct map *vms, const struct holding *self, struct spec *spec, struct claims *given)
{
    int r;

    if (!spec->vsock.wanted || spec->vsock.cid)
        return 0;
    if (given->cid) {
        spec->vsock.cid = given->cid;
        return 0;
    }
    r = choose_cid(vms, self, &given->cid);
    spec->vsock.cid = given->cid;
    return r < 0 ? r : 1;
}

/* ---- MAC addresses ---- */

struct mac_wanted {
    const char *mac;
    bool taken;
};

static void see_mac(void *arg, const struct claims *claims)
{
    struct mac_wanted *wanted = arg;

    for (size_t i = 0; claims->macs && claims->macs[i] && !wanted->taken; i++)
        wanted->taken = streq(claims->macs[i], wanted->mac);
}

static bool spec_has_mac(const struct spec *spec, const char *mac)
{
    for (size_t i = 0; i < spec->n_network; i++)
        if (spec->network[i].mac && streq(spec->network[i].mac, mac))
            return true;
    return false;
}

static int choose_mac(const struct map *vms, const struct holding *self, const struct spec *spec, size_t i, char ret_mac[MAC_TEXT_MAX],
                      struct err *err)
{
    for (unsigned attempt = 0; attempt < MAC_ATTEMPTS_MAX; attempt++) {
        struct mac_wanted wanted = { .mac = ret_mac };

        network_default_mac(spec->name, i, attempt, ret_mac);
        wanted.taken = spec_has_mac(spec, ret_mac);
        each_other(vms, self, see_mac, &wanted);
        if (!wanted.taken)
            return 0;
    }
    return err_set(err, ENOSPC, "no-mac", "/network/%zu/mac: found no address that no other VM has: give one", i);
}

static size_t count(char *const *words)
{
    size_t n = 0;

    while (words && words[n])
        n++;
    return n;
}

/* `macs` has a place for each network from here on. */
static int widen(struct claims *given, size_t n)
{
    auto_strv struct strv macs = { 0 };
    size_t had = count(given->macs);

    if (had >= n)
        return 0;
    for (size_t i = 0; i < n; i++)
        strv_push(&macs, i < had ? given->macs[i] : "");
    if (macs.failed)
        return -ENOMEM;
    for (size_t i = 0; i < had; i++)
        free(given->macs[i]);
    free(given->macs);
    given->macs = macs.items;
    macs = (struct strv){ 0 };
    return 0;
}

static int fill_macs(const struct map *vms, const struct holding *self, struct spec *spec, struct claims *given, struct err *err)
{
    char mac[MAC_TEXT_MAX];
    int chosen = 0, r;

    for (size_t i = 0; i < spec->n_network; i++) {
        if (spec->network[i].mac)
            continue;
        r = widen(given, spec->n_network);
        if (r >= 0 && !*given->macs[i]) {
            r = choose_mac(vms, self, spec, i, mac, err);
            if (r >= 0)
                r = str_set(&given->macs[i], mac);
            chosen = 1;
        }
        if (r >= 0)
            r = str_set(&spec->network[i].mac, given->macs[i]);
        if (r < 0)
            return r;
    }
    return chosen;
}

/* ---- ports ---- */

struct ports_seen {
    const struct port_claim *wanted;
    uint8_t taken[PORTS / BITS];
};

static void see_ports(void *arg, const struct claims *claims)
{
    struct ports_seen *seen = arg;

    for (size_t i = 0; i < claims->n_ports; i++) {
        struct port_claim wanted = *seen->wanted;

        wanted.host.port = claims->ports[i].host.port;
        if (port_claims_collide(&claims->ports[i], &wanted))
            seen->taken[wanted.host.port / BITS] |= (uint8_t)(1 << wanted.host.port % BITS);
    }
}

/* Among what the chosen one may not be. */
struct ports_had {
    const struct map *vms;
    const struct holding *self;
    const struct claims *own, *given; /* of the VM itself: fixed, and given for whatever use */
};

static int choose_port(const struct ports_had *had, const struct port_range *ports, struct port_claim *port, struct err *err)
{
    struct ports_seen seen = { .wanted = port };

    each_other(had->vms, had->self, see_ports, &seen);
    see_ports(&seen, had->own);
    see_ports(&seen, had->given);
    for (unsigned n = ports->first; n <= ports->last; n++) {
        struct port_claim candidate = *port;

        if (seen.taken[n / BITS] & 1 << n % BITS)
            continue;
        candidate.host.port = (uint16_t)n;
        if (host_port_try(&candidate) == -EADDRINUSE)
            continue;
        port->host.port = (uint16_t)n;
        return 0;
    }
    return err_set(err, ENOSPC, "no-port", "/network/%llu/forward/%zu/host: no port from %u to %u is free (\"ports\" in the host config)",
                   (unsigned long long)port->network, port->forward, (unsigned)ports->first, (unsigned)ports->last);
}

static bool is_same_use(const struct port_claim *a, const struct port_claim *b)
{
    return a->network == b->network && a->guest == b->guest && a->proto == b->proto && a->host.addr.s_addr == b->host.addr.s_addr;
}

static const struct port_claim *find_given(const struct claims *given, const struct port_claim *port)
{
    for (size_t i = 0; i < given->n_ports; i++)
        if (is_same_use(&given->ports[i], port))
            return &given->ports[i];
    return NULL;
}

static int add_port(struct claims *given, const struct port_claim *port)
{
    struct port_claim *more = reallocarray(given->ports, given->n_ports + 1, sizeof(*more));

    if (!more)
        return -ENOMEM;
    given->ports = more;
    given->ports[given->n_ports++] = *port;
    return 0;
}

static int set_host(struct spec *spec, const struct port_claim *port)
{
    char addr[INET_ADDRSTRLEN] = "";
    auto_free char *host = NULL;

    (void)inet_ntop(AF_INET, &port->host.addr, addr, sizeof addr);
    if (str_format(&host, "%s:%u", addr, (unsigned)port->host.port) < 0)
        return -ENOMEM;
    return str_set(&spec->network[port->network].forward[port->forward].host, host);
}

static int fill_ports(const struct map *vms, const struct holding *self, struct spec *spec, const struct port_range *ports,
                      struct claims *given, struct err *err)
{
    auto_claims struct claims own = { 0 };
    int chosen = 0, r = claims_from_spec(spec, &own);

    for (size_t i = 0; i < own.n_ports && r >= 0; i++) {
        struct port_claim *port = &own.ports[i];
        const struct port_claim *before = port->host.port ? NULL : find_given(given, port);

        if (port->host.port)
            continue;
        if (before) {
            port->host.port = before->host.port;
        } else {
            r = choose_port(&(struct ports_had){ vms, self, &own, given }, ports, port, err);
            if (r >= 0)
                r = add_port(given, port);
            chosen = 1;
        }
        if (r >= 0)
            r = set_host(spec, port);
    }
    return r < 0 ? r : chosen;
}

int allocate_fill(const struct map *vms, const struct holding *self, struct spec *spec, const struct port_range *ports,
                  struct claims *given, struct err *err)
{
    int cid = fill_cid(vms, self, spec, given), macs = cid < 0 ? cid : fill_macs(vms, self, spec, given, err);
    int r = macs < 0 ? macs : fill_ports(vms, self, spec, ports, given, err);

    return r < 0 ? r : cid || macs || r;
}

/* ---- what is kept ---- */

static bool is_used(const struct claims *claims, const struct port_claim *port)
{
    for (size_t i = 0; i < claims->n_ports; i++) {
        const struct port_claim *p = &claims->ports[i];

        if (is_same_use(p, port) && p->host.port == port->host.port)
            return true;
    }
    return false;
}

static bool prune_ports(struct claims *given, const struct claims *claims)
{
    size_t n = 0, had = given->n_ports;

    for (size_t i = 0; i < had; i++)
        if (is_used(claims, &given->ports[i]))
            given->ports[n++] = given->ports[i];
    given->n_ports = n;
    return n < had;
}

bool allocate_prune(struct claims *given, const struct claims *claims)
{
    bool gone = prune_ports(given, claims);
    size_t n = count(claims->macs);

    for (size_t i = 0; given->macs && given->macs[i]; i++) {
        if (!*given->macs[i] || (i < n && streq(given->macs[i], claims->macs[i])))
            continue;
        *given->macs[i] = '\0';
        gone = true;
    }
    if (given->cid && given->cid != claims->cid) {
        given->cid = 0;
        gone = true;
    }
    return gone;
}

int allocate_copy_given(const struct claims *from, struct claims *ret_to)
{
    auto_claims struct claims to = { .cid = from->cid };
    auto_strv struct strv macs = { 0 };

    for (size_t i = 0; from->macs && from->macs[i]; i++)
        strv_push(&macs, from->macs[i]);
    if (macs.failed)
        return -ENOMEM;
    to.macs = macs.items;
    macs = (struct strv){ 0 };
    for (size_t i = 0; i < from->n_ports; i++)
        if (add_port(&to, &from->ports[i]) < 0)
            return -ENOMEM;
    *ret_to = to;
    to = (struct claims){ 0 };
    return 0;
}
