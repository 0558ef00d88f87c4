/* io.holdfast.Manager.Events: each follower gets every event of its VMs once and in order, first from disk, VM by VM, then live. */
#pragma once

#include "lib/base/json.h"

struct manager;
struct varlink_call;

void follow_begin(struct manager *m, struct varlink_call *call, const json_t *parameters);

void follow_publish(struct manager *m, const char *name, const json_t *event);
void follow_publish_gap(struct manager *m, const char *name, uint64_t lost);

/* Drops all followers, at the manager's end. */
void follow_clear(struct manager *m);
