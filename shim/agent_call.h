/* One command to the QEMU guest agent (QEMU docs/interop/qemu-ga.rst), on a connection of its own. */
#pragma once

struct vm;
struct agent_call;

/* `done` is told once, from the loop: NULL when the agent answered, else one line about what went wrong. There is no deadline of its own: an
 * agent that isn't there never answers. The owner frees the call, also from inside `done`. */
int agent_call(struct vm *vm, const char *command, void (*done)(void *arg, const char *why), void *arg, struct agent_call **ret_call);
void agent_call_free(struct agent_call *c);
