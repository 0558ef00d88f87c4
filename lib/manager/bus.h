/* D-Bus on the loop, by sd-bus: connects when first needed, without waiting for anything, and again after the line was lost. What is asked is
 * asked of systemd alone: of the system's by root, of the user's own by anybody else. */
#pragma once

#include <systemd/sd-bus.h>

#include "lib/base/err.h"
#include "lib/loop/loop.h"

struct bus {
    struct loop *loop;
    const char *address; /* NULL: the usual ones. Spoken to as systemd itself (its private socket), not as a bus; for tests */
    sd_bus *bus;         /* NULL: not connected */
    ev_io io;
    ev_timer timer;
    ev_prepare prepare;
    struct deferred drop;
    int error;
    /* The line is there now: the place for matches. Less than 0: it is of no use. */
    int (*ready)(struct bus *b);
    /* The line is lost; calls that were out get no answer. */
    void (*lost)(struct bus *b, int error);
};

/* Fills the rest in; nothing is connected yet. */
void bus_init(struct bus *b, struct loop *l);
/* 0 when there is a line, or one that is just coming up. The text says what couldn't be reached. */
int bus_connect(struct bus *b, struct err *err);
void bus_close(struct bus *b); /* fine on one that isn't connected */
