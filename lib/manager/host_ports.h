/* Ports of the host: whether one can be listened on, and who does already. Each call takes moments, the second reads much of /proc. */
#pragma once

#include "lib/base/err.h"
#include "lib/spec/claims.h"

/* Tries, by listening there for an instant, as QEMU's user network would. 0, -EADDRINUSE, -EADDRNOTAVAIL, or another -errno that says nothing
 * about the port (also where only others than us may listen). */
int host_port_try(const struct port_claim *port);

enum { PORT_OWNER_MAX = 96 };

/* Who has it: "nginx (pid 812)"; "a process of uid 33" where its descriptors may not be read; "" when nobody is found. `proc`: /proc, or a
 * folder like it. */
void host_port_owner(const char *proc, const struct port_claim *port, char ret_owner[PORT_OWNER_MAX]);

/* The two together. -EADDRINUSE with id "port-taken" and "127.0.0.1:8080/tcp is taken by nginx (pid 812)"; -EADDRNOTAVAIL. 0: as far as can
 * be told it is free. */
int host_port_check(const struct port_claim *port, struct err *err);
