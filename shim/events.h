/* The VM's events: numbered without gaps for as long as the VM exists, the newest EVENTS_KEPT of them kept for replay. */
#pragma once

#include <jansson.h>
#include <stdint.h>

#include "lib/base/record.h"

enum event_type {
    EVENT_STATE,
    EVENT_EXIT,
    EVENT_STOP_RUNG,
    EVENT_PREPARE,
    EVENT_QMP,
    EVENT_CONSOLE,
    EVENT_HEALTH,
    EVENT_MEMORY,   /* where the guest's RAM comes from */
    EVENT_SNAPSHOT, /* one is being made */
    EVENT_UPDATED,  /* it runs by another plan from now on */
    EVENT_LOG,      /* the logs: not rotated, no room, folder gone */
    EVENT_SHIM,     /* the supervisor itself: started, adopted, a record that could not be written */
};
extern const struct enum_names event_type_names;

enum { EVENTS_KEPT = 128 };

struct event {
    uint64_t seq;
    uint64_t at; /* real time, microseconds */
    uint64_t incarnation;
    int type; /* enum event_type */
    char *text;
    json_t *data; /* may be NULL */
};

struct event_ring {
    struct event kept[EVENTS_KEPT];
    uint64_t next_seq;  /* number of the next event; numbering begins at 1 */
    uint64_t first_seq; /* oldest kept; == next_seq when none is */
};

void event_ring_init(struct event_ring *r, uint64_t last_seq);
void event_ring_clear(struct event_ring *r);

/* Keeps the event, dropping the oldest when full, and returns it. Takes `data`. Text that can't be copied for want of memory is
 * lost, the number isn't: watchers see the event with an empty text. */
const struct event *event_ring_add_consume(struct event_ring *r, enum event_type type, uint64_t incarnation, const char *text,
                                           json_t *data);

/* The kept event with the lowest number > since, or NULL. */
const struct event *event_ring_after(const struct event_ring *r, uint64_t since);

/* The Event object of the wire. NULL: out of memory. */
json_t *event_to_wire(const struct event *e);
