/* What the preload library in QEMU (agent.c) and the shim (shim/memory/ram.c) say to each other, over one inherited SOCK_SEQPACKET socket.
 *
 * QEMU maps the guest's RAM: the library makes a userfaultfd, leaves it at AGENT_FD_UFFD for whoever may have to take it over
 * (pidfd_getfd(2)), sends a hello with it, and waits for a go. Nothing of the guest's memory has been touched by then. A go may carry
 * a file: that is mapped privately in the RAM's place. */
#pragma once

#include <stdint.h>

enum agent_fd {
    AGENT_FD_RAM = 5,    /* the memfd whose mapping is waited for (PLAN_FD_RAM) */
    AGENT_FD_SOCKET = 8, /* to the shim; closed after the go */
    AGENT_FD_UFFD = 9,   /* on entry /dev/userfaultfd, or not open; from the hello on the userfaultfd, for QEMU's whole life */
    AGENT_FD_SELF = 15,  /* the library's own file, so that QEMU's user needs no way to its folder; closed when loaded */
};

enum { AGENT_PROTOCOL = 1 };

/* "must": without a go QEMU ends, for its RAM would be empty where it should hold a snapshot. Else it goes on as if there were no library. */
#define AGENT_ENV "HOLDFAST_RAM"
#define AGENT_MUST "must"

struct agent_hello { /* with the userfaultfd as SCM_RIGHTS, unless error */
    uint32_t protocol;
    uint32_t error; /* errno of what failed, 0: none */
    uint64_t addr, len;
    uint64_t features; /* of the userfaultfd: UFFD_FEATURE_… that were asked for and granted */
};

struct agent_go { /* with a file as SCM_RIGHTS when map_file */
    uint32_t protocol;
    uint32_t map_file;
};
