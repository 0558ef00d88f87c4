#include "shim/events.h"

#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/util.h"

static const char *const type_names[] = {
    [EVENT_STATE] = "state",       [EVENT_EXIT] = "exit",       [EVENT_STOP_RUNG] = "stop-rung", [EVENT_PREPARE] = "prepare",
    [EVENT_QMP] = "qmp",           [EVENT_CONSOLE] = "console", [EVENT_HEALTH] = "health",       [EVENT_MEMORY] = "memory",
    [EVENT_SNAPSHOT] = "snapshot", [EVENT_LOG] = "log",         [EVENT_SHIM] = "shim",           [EVENT_UPDATED] = "updated",
};
const struct enum_names event_type_names = { "event type", type_names, ARRAY_LEN(type_names) };

static void event_clear(struct event *e)
{
    free(e->text);
    json_decref(e->data);
    memset(e, 0, sizeof(*e));
}

void event_ring_init(struct event_ring *r, uint64_t last_seq)
{
    memset(r, 0, sizeof(*r));
    r->first_seq = r->next_seq = last_seq + 1;
}

void event_ring_clear(struct event_ring *r)
{
    for (size_t i = 0; i < EVENTS_KEPT; i++)
        event_clear(&r->kept[i]);
}

const struct event *event_ring_add_consume(struct event_ring *r, enum event_type type, uint64_t incarnation, const char *text, json_t *data)
{
    struct event *e = &r->kept[r->next_seq % EVENTS_KEPT];

    if (r->next_seq - r->first_seq == EVENTS_KEPT)
        r->first_seq++;
    event_clear(e);
    *e = (struct event){
        .seq = r->next_seq++,
        .at = clock_real_us(),
        .incarnation = incarnation,
        .type = type,
        .text = strdup(text),
        .data = data,
    };
    if (e->text)
        utf8_clean(e->text);
    return e;
}

const struct event *event_ring_after(const struct event_ring *r, uint64_t since)
{
    uint64_t seq = since < r->first_seq ? r->first_seq : since + 1;

    return seq < r->next_seq ? &r->kept[seq % EVENTS_KEPT] : NULL;
}

json_t *event_to_wire(const struct event *e)
{
    char at[CLOCK_TEXT_MAX];

    return json_pack("{sI ss ss sI ss sO*}", "seq", (json_int_t)e->seq, "at", clock_format(e->at, at), "type",
                     enum_to_string(&event_type_names, e->type), "incarnation", (json_int_t)e->incarnation, "text", e->text ? e->text : "",
                     "data", e->data);
}
