/* What a spec takes of its host that no two VMs can have at once (MAC addresses, host ports, a vsock context id, GPUs), and how much of what
 * they share. Pure. */
#pragma once

#include <netinet/in.h>
#include <stdint.h>

#include "lib/base/json.h"
#include "lib/base/parse.h"
#include "lib/base/record.h"
#include "lib/spec/spec.h"

enum port_proto { PORT_TCP, PORT_UDP };
extern const struct enum_names port_proto_names;

struct host_port {
    struct in_addr addr;
    uint16_t port; /* 0: left to us, and not given yet */
};

struct port_claim {
    struct host_port host;
    int proto;               /* enum port_proto */
    uint64_t guest, network; /* port in the guest, index of the network */
    size_t forward;          /* index in it; not in the record */
};
extern const struct record_type port_claim_type;

struct claims {
    char **macs;  /* of each network; "": left to us, and not given yet */
    uint64_t cid; /* 0: none, or the same */
    struct port_claim *ports;
    size_t n_ports;
    char **gpus;
    uint64_t cpus, memory, disk; /* disk: the virtual sizes of its own disks */
};
extern const struct record_type claims_type;

/* Of a spec that was checked. -ENOMEM. */
int claims_from_spec(const struct spec *spec, struct claims *ret_claims);
void claims_clear(struct claims *claims);
#define auto_claims auto_cleanup(claims_clear)

/* Whether both want the same port of the same kind: 0.0.0.0 is all addresses. */
bool port_claims_collide(const struct port_claim *a, const struct port_claim *b);

/* "127.0.0.1:auto" or "auto" (0.0.0.0): the host's side of a forward whose port is left to us. */
bool host_port_is_auto(const char *text, struct in_addr *ret_addr);

enum claim_kind { CLAIM_PORT, CLAIM_MAC, CLAIM_CID, CLAIM_GPU };

struct conflict {
    enum claim_kind kind;
    size_t mine, theirs; /* index in the list of its kind */
};

/* Calls `found` for each thing that both claim. How many. */
int claims_compare(const struct claims *mine, const struct claims *theirs, void (*found)(void *arg, const struct conflict *conflict),
                   void *arg);

enum { CLAIM_TEXT_MAX = 64 };

/* Where in the spec it is said (a JSON Pointer in the terms of the form it is written in), and what it is: "127.0.0.1:8080/tcp". */
void claim_pointer(const struct claims *claims, enum claim_kind kind, size_t i, bool spvm, char buf[CLAIM_TEXT_MAX]);
void claim_text(const struct claims *claims, enum claim_kind kind, size_t i, char buf[CLAIM_TEXT_MAX]);
