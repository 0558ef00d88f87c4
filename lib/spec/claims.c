#include "lib/spec/claims.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>

#include "lib/base/strv.h"

#define HOST_AUTO "auto"
#define FIELD_AT(record, member) .offset = offsetof(record, member)

static const char *const port_protos[] = { [PORT_TCP] = "tcp", [PORT_UDP] = "udp" };
const struct enum_names port_proto_names = { "proto", port_protos, ARRAY_LEN(port_protos) };

static int host_parse(const json_t *value, void *slot, struct err *err)
{
    struct host_port *host = slot;

    if (!json_is_string(value) || parse_host_port(json_string_value(value), &host->addr, &host->port) < 0 || host->port == 0)
        return record_expected(err, value, "\"ADDRESS:PORT\"");
    return 0;
}

static const char *format_host(const struct host_port *host, char buf[CLAIM_TEXT_MAX])
{
    char addr[INET_ADDRSTRLEN] = "?";

    (void)inet_ntop(AF_INET, &host->addr, addr, sizeof addr);
    if (host->port)
        snprintf(buf, CLAIM_TEXT_MAX, "%s:%u", addr, (unsigned)host->port);
    else
        snprintf(buf, CLAIM_TEXT_MAX, "%s:" HOST_AUTO, addr);
    return buf;
}

static json_t *host_emit(const void *slot)
{
    char text[CLAIM_TEXT_MAX];

    return json_string(format_host(slot, text));
}

static const struct field_codec codec_host = { .parse = host_parse, .emit = host_emit };

static const struct field port_fields[] = {
    { .key = "host", .kind = FIELD_CUSTOM, .flags = FIELD_REQUIRED, FIELD_AT(struct port_claim, host), .codec = &codec_host },
    { .key = "proto", .kind = FIELD_ENUM, .flags = FIELD_REQUIRED, FIELD_AT(struct port_claim, proto), .names = &port_proto_names },
    { .key = "guest", .kind = FIELD_UINT, FIELD_AT(struct port_claim, guest), .max = UINT16_MAX },
    { .key = "network", .kind = FIELD_UINT, FIELD_AT(struct port_claim, network), .max = UINT16_MAX },
};
const struct record_type port_claim_type = { "port", sizeof(struct port_claim), NULL, port_fields, ARRAY_LEN(port_fields) };

static const struct field claims_fields[] = {
    { .key = "macs", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, macs) },
    { .key = "cid", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, cid) },
    { .key = "ports",
      .kind = FIELD_ARRAY,
      .flags = FIELD_OMIT_EMPTY,
      FIELD_AT(struct claims, ports),
      .count_offset = offsetof(struct claims, n_ports),
      .type = &port_claim_type },
    { .key = "gpus", .kind = FIELD_STRV, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, gpus) },
    { .key = "cpus", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, cpus) },
    { .key = "memory", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, memory) },
    { .key = "disk", .kind = FIELD_UINT, .flags = FIELD_OMIT_EMPTY, FIELD_AT(struct claims, disk) },
};
const struct record_type claims_type = { "claims", sizeof(struct claims), NULL, claims_fields, ARRAY_LEN(claims_fields) };

void claims_clear(struct claims *claims) { record_clear(&claims_type, claims); }

bool host_port_is_auto(const char *text, struct in_addr *ret_addr)
{
    const char *colon = strrchr(text, ':');
    char addr[INET_ADDRSTRLEN];
    size_t len = colon ? (size_t)(colon - text) : 0;
    struct in_addr parsed = { .s_addr = INADDR_ANY };

    if (!streq(colon ? colon + 1 : text, HOST_AUTO) || len >= sizeof addr)
        return false;
    memcpy(addr, text, len);
    addr[len] = '\0';
    if (len && inet_pton(AF_INET, addr, &parsed) != 1)
        return false;
    *ret_addr = parsed;
    return true;
}

static int copy_gpus(const struct spec *spec, struct claims *claims)
{
    auto_strv struct strv gpus = { 0 };

    for (size_t i = 0; spec->gpus && spec->gpus[i]; i++)
        strv_push(&gpus, spec->gpus[i]);
    if (gpus.failed)
        return -ENOMEM;
    claims->gpus = gpus.items;
    gpus = (struct strv){ 0 };
    return 0;
}

static int copy_networks(const struct spec *spec, struct claims *claims)
{
    auto_strv struct strv macs = { 0 };
    size_t total = 0;

    for (size_t i = 0; i < spec->n_network; i++)
        total += spec->network[i].n_forward;
    claims->ports = calloc(total + 1, sizeof *claims->ports);
    if (!claims->ports)
        return -ENOMEM;
    for (size_t i = 0; i < spec->n_network; i++) {
        const struct spec_network *net = &spec->network[i];

        strv_push(&macs, net->mac ? net->mac : "");
        for (size_t k = 0; k < net->n_forward; k++) {
            struct port_claim *port = &claims->ports[claims->n_ports++];
            const char *proto = net->forward[k].proto;

            *port = (struct port_claim){ .guest = net->forward[k].guest, .network = i, .forward = k };
            port->proto = proto && streq(proto, "udp") ? PORT_UDP : PORT_TCP;
            if (!host_port_is_auto(net->forward[k].host, &port->host.addr))
                (void)parse_host_port(net->forward[k].host, &port->host.addr, &port->host.port);
        }
    }
    if (macs.failed)
        return -ENOMEM;
    claims->macs = macs.items;
    macs = (struct strv){ 0 };
    return 0;
}

int claims_from_spec(const struct spec *spec, struct claims *ret_claims)
{
    auto_claims struct claims claims = { .cpus = spec->cpus, .memory = spec->memory };

    if (copy_networks(spec, &claims) < 0 || copy_gpus(spec, &claims) < 0)
        return -ENOMEM;
    claims.cid = spec->vsock.wanted ? spec->vsock.cid : 0;
    for (size_t i = 0; i < spec->n_disks; i++)
        claims.disk += spec->disks[i].path ? 0 : spec->disks[i].size;
    *ret_claims = claims;
    claims = (struct claims){ 0 };
    return 0;
}

bool port_claims_collide(const struct port_claim *a, const struct port_claim *b)
{
    in_addr_t one = a->host.addr.s_addr, other = b->host.addr.s_addr;

    return a->host.port && a->host.port == b->host.port && a->proto == b->proto &&
           (one == other || one == INADDR_ANY || other == INADDR_ANY);
}

static int compare_words(char *const *mine, char *const *theirs, enum claim_kind kind,
                         void (*found)(void *arg, const struct conflict *conflict), void *arg)
{
    int n = 0;

    for (size_t i = 0; mine && theirs && mine[i]; i++)
        for (size_t k = 0; *mine[i] && theirs[k]; k++)
            if (streq(mine[i], theirs[k])) {
                found(arg, &(struct conflict){ kind, i, k });
                n++;
                break;
            }
    return n;
}

int claims_compare(const struct claims *mine, const struct claims *theirs, void (*found)(void *arg, const struct conflict *conflict),
                   void *arg)
{
    int n = 0;

    for (size_t i = 0; i < mine->n_ports; i++)
        for (size_t k = 0; k < theirs->n_ports; k++)
            if (port_claims_collide(&mine->ports[i], &theirs->ports[k])) {
                found(arg, &(struct conflict){ CLAIM_PORT, i, k });
                n++;
                break;
            }
    n += compare_words(mine->macs, theirs->macs, CLAIM_MAC, found, arg);
    if (mine->cid && mine->cid == theirs->cid) {
        found(arg, &(struct conflict){ CLAIM_CID, 0, 0 });
        n++;
    }
    return n + compare_words(mine->gpus, theirs->gpus, CLAIM_GPU, found, arg);
}

/* ---- words ---- */

/* Forwards of an sp-vm file by what they lead to. */
static const struct {
    uint64_t guest;
    const char *key;
} spvm_ports[] = { { 80, "http_port" }, { 443, "https_port" }, { 51820, "wg_port" }, { 22, "ssh_port" } };

static void port_pointer(const struct port_claim *port, bool spvm, char buf[CLAIM_TEXT_MAX])
{
    const char *key = "ip_address";

    if (!spvm) {
        snprintf(buf, CLAIM_TEXT_MAX, "/network/%u/forward/%zu/host", (unsigned)port->network, port->forward);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(spvm_ports); i++)
        if (spvm_ports[i].guest == port->guest)
            key = spvm_ports[i].key;
    snprintf(buf, CLAIM_TEXT_MAX, "/qemu_configuration/%s", key);
}

void claim_pointer(const struct claims *claims, enum claim_kind kind, size_t i, bool spvm, char buf[CLAIM_TEXT_MAX])
{
    switch (kind) {
    case CLAIM_PORT:
        port_pointer(&claims->ports[i], spvm, buf);
        break;
    case CLAIM_MAC:
        if (spvm)
            snprintf(buf, CLAIM_TEXT_MAX, "/qemu_configuration/mac_address");
        else
            snprintf(buf, CLAIM_TEXT_MAX, "/network/%zu/mac", i);
        break;
    case CLAIM_CID:
        snprintf(buf, CLAIM_TEXT_MAX, "%s", spvm ? "/qemu_configuration/guest_cid" : "/vsock/cid");
        break;
    case CLAIM_GPU:
        snprintf(buf, CLAIM_TEXT_MAX, "%s/%zu", spvm ? "/qemu_configuration/gpus" : "/gpus", i);
        break;
    }
}

void claim_text(const struct claims *claims, enum claim_kind kind, size_t i, char buf[CLAIM_TEXT_MAX])
{
    char host[CLAIM_TEXT_MAX];

    switch (kind) {
    case CLAIM_PORT:
        snprintf(buf, CLAIM_TEXT_MAX, "%.40s/%s", format_host(&claims->ports[i].host, host),
                 enum_to_string(&port_proto_names, claims->ports[i].proto));
        break;
    case CLAIM_MAC:
        snprintf(buf, CLAIM_TEXT_MAX, "MAC address %.40s", claims->macs[i]);
        break;
    case CLAIM_CID:
        snprintf(buf, CLAIM_TEXT_MAX, "vsock context id %llu", (unsigned long long)claims->cid);
        break;
    case CLAIM_GPU:
        snprintf(buf, CLAIM_TEXT_MAX, "GPU %.40s", claims->gpus[i]);
        break;
    }
}
